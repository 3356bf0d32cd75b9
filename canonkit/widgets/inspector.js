export default {render({model, el}) { makePanes(model, el); }};
