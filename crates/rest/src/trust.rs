//! Which certificate is believed: one that a CA signed, or the one with this fingerprint.
//!
//! Servers at home sign their certificates themselves, and a Proxmox VE node's is signed by its cluster's own CA
//! (/etc/pve/pve-root-ca.pem), which no system knows; so the SHA-256 fingerprint can be pinned instead. There is no way
//! to believe anything.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// What a server's certificate is held to.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The CAs of a PEM file, and the name in the URL.
    Roots(Vec<u8>),
    /// The certificate itself, by the SHA-256 of its DER form. Its name and dates then do not matter.
    Pin([u8; 32]),
}

impl Trust {
    /// `AA:BB:…`, 32 bytes in hex, with or without colons, as `openssl x509 -fingerprint` and `pvenode cert info` print it.
    pub fn pin(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error(format!("{text} is no SHA-256 fingerprint: 32 bytes in hex, such as openssl x509 -fingerprint shows"))
        };
        let hex: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
        let digits = std::str::from_utf8(&hex).map_err(|_| bad())?;
        let mut bytes = [0u8; 32];
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(at * 2..at * 2 + 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Trust::Pin(bytes))
    }

    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let tls = |error: rustls::Error| Error(format!("TLS cannot be set up: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(tls)?;
        let config = match self {
            Trust::Roots(pem) => {
                let mut roots = RootCertStore::empty();
                let found: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem).collect();
                let found = found.map_err(|error| Error(format!("the CA file is no PEM: {error:?}")))?;
                let (added, _) = roots.add_parsable_certificates(found);
                if added == 0 {
                    return Err(Error("the CA file holds no certificate".into()));
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Pin(pin) => {
                let verifier = Pinned { pin: *pin, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
            }
        };
        Ok(Arc::new(config))
    }
}

/// Accepts the one certificate; that the server has its key is still proved by the handshake's signature.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Sha256::digest(end_entity);
        if found.as_slice() == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let found: Vec<String> = found.iter().map(|byte| format!("{byte:02X}")).collect();
        Err(rustls::Error::General(format!(
            "the server's certificate has the fingerprint {}, not the pinned one: compare with what the server itself shows (on Proxmox VE: pvenode cert info)",
            found.join(":")
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let plain = "0b".repeat(32);
        let colons: Vec<&str> = std::iter::repeat_n("0B", 32).collect();
        for text in [plain, colons.join(":")] {
            assert!(matches!(Trust::pin(&text), Ok(Trust::Pin(pin)) if pin == [0x0b; 32]), "{text}");
        }
        for text in ["", "0b", "zz".repeat(32).as_str(), "é".repeat(32).as_str()] {
            assert!(Trust::pin(text).is_err(), "{text}");
        }
    }
}
