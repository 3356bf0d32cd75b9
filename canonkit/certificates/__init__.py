"""Is it one? Tests of canonicalizers on data, of denoisers, and of samples."""

from canonkit.certificates.certificate import Certificate, ImageCertificate, certify, nearest_jump
from canonkit.certificates.law import LawCertificate, SampleLaw, certify_law, certify_samples

__all__ = [
    "Certificate",
    "ImageCertificate",
    "LawCertificate",
    "SampleLaw",
    "certify",
    "certify_law",
    "certify_samples",
    "nearest_jump",
]
