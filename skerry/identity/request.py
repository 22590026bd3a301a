"""A certificate signing request: proof that who asks holds the key. Nothing else that it says is believed."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.identity.certificate import MALFORMED, check_key
from skerry.identity.errors import InvalidCertificateError

REQUEST_BYTES_MAX = 4096  # DER; an own one takes about 200


def make(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request for `key`, as DER. It holds no name: the coordinator decides on that."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def public_key(der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key that an untrusted party asks a certificate for.

    Raises:
        InvalidCertificateError: too large, no request, not signed by that key, or a key that is not on P-256.
    """
    if len(der) > REQUEST_BYTES_MAX:
        raise InvalidCertificateError(f"a certificate request of {len(der)} bytes, at most {REQUEST_BYTES_MAX}")
    try:
        request = x509.load_der_x509_csr(der)
        key = check_key(request.public_key())
        signed = request.is_signature_valid
    except MALFORMED as error:
        raise InvalidCertificateError("no certificate request, or its key is not on P-256") from error
    if not signed:
        raise InvalidCertificateError("the certificate request is not signed by its own key")
    return key
