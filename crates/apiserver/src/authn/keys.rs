//! Keys that sign and verify service-account tokens: ES256 and RS256 over ring, and their JWK form.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// DER of a P-256 SubjectPublicKeyInfo up to the uncompressed point.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// `SEQUENCE { rsaEncryption, NULL }`.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const OID_EC: &str = "1.2.840.10045.2.1";
const OID_RSA: &str = "1.2.840.113549.1.1.1";

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no PEM block of a private or public key found")]
    NoPem,
    #[error("the key is neither EC P-256 nor RSA in PKCS#8 form: {0}")]
    Unsupported(String),
    #[error("signing failed")]
    Signing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Es256,
    Rs256,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }
}

/// A public key tokens may be signed with.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    pub id: String,
    pub algorithm: Algorithm,
    /// The point of an EC key; `RSAPublicKey` DER of an RSA key.
    bytes: Vec<u8>,
}

impl VerifyingKey {
    /// From the DER of a SubjectPublicKeyInfo.
    fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (_, spki) =
            SubjectPublicKeyInfo::from_der(der).map_err(|error| KeyError::Unsupported(error.to_string()))?;
        let algorithm = match spki.algorithm.algorithm.to_id_string().as_str() {
            OID_EC if spki.subject_public_key.data.len() == 65 => Algorithm::Es256,
            OID_RSA => Algorithm::Rs256,
            other => return Err(KeyError::Unsupported(format!("algorithm {other}"))),
        };
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(der));
        Ok(VerifyingKey { id, algorithm, bytes: spki.subject_public_key.data.to_vec() })
    }
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        match pem_block(pem)? {
            (label, der) if label == "PUBLIC KEY" => Self::from_spki(&der),
            (label, der) if label.ends_with("PRIVATE KEY") => Ok(SigningKey::from_pkcs8(&der)?.public),
            (label, _) => Err(KeyError::Unsupported(format!("PEM block {label}"))),
        }
    }
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Es256 => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.bytes)
                .verify(message, signature),
            Algorithm::Rs256 => UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &self.bytes)
                .verify(message, signature),
        }
        .is_ok()
    }
    pub fn jwk(&self) -> Value {
        let mut key = json!({"use": "sig", "kid": self.id, "alg": self.algorithm.name()});
        match self.algorithm {
            Algorithm::Es256 => {
                // 0x04, then 32 bytes each: from_spki checked the length.
                let (x, y) = self.bytes[1..].split_at(32);
                key["kty"] = "EC".into();
                key["crv"] = "P-256".into();
                key["x"] = URL_SAFE_NO_PAD.encode(x).into();
                key["y"] = URL_SAFE_NO_PAD.encode(y).into();
            }
            Algorithm::Rs256 => {
                let parts = rsa_parts(&self.bytes).unwrap_or_default();
                key["kty"] = "RSA".into();
                key["n"] = URL_SAFE_NO_PAD.encode(parts.0).into();
                key["e"] = URL_SAFE_NO_PAD.encode(parts.1).into();
            }
        }
        key
    }
}

enum Private {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

pub struct SigningKey {
    private: Private,
    pub public: VerifyingKey,
}

impl SigningKey {
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (_, der) = pem_block(pem)?;
        Self::from_pkcs8(&der)
    }
    /// A key that lives as long as the process: tokens end with it.
    pub fn ephemeral() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Signing)?;
        Self::from_pkcs8(document.as_ref())
    }
    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let ec =
            EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new());
        if let Ok(pair) = ec {
            let mut spki = P256_SPKI_PREFIX.to_vec();
            spki.extend_from_slice(pair.public_key().as_ref());
            return Ok(SigningKey { public: VerifyingKey::from_spki(&spki)?, private: Private::Ec(pair) });
        }
        let pair = RsaKeyPair::from_pkcs8(der)
            .or_else(|_| RsaKeyPair::from_der(der))
            .map_err(|error| KeyError::Unsupported(error.to_string()))?;
        let spki = rsa_spki(pair.public().as_ref());
        Ok(SigningKey { public: VerifyingKey::from_spki(&spki)?, private: Private::Rsa(pair) })
    }
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Ec(pair) => {
                let signature = pair.sign(&random, message).map_err(|_| KeyError::Signing)?;
                Ok(signature.as_ref().to_vec())
            }
            Private::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| KeyError::Signing)?;
                Ok(signature)
            }
        }
    }
}

/// The first PEM block that holds a key: its label and its DER.
fn pem_block(pem: &str) -> Result<(String, Vec<u8>), KeyError> {
    let mut rest = pem;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (label, body) = after.split_once("-----").ok_or(KeyError::NoPem)?;
        let end = format!("-----END {label}-----");
        let (body, tail) = body.split_once(end.as_str()).ok_or(KeyError::NoPem)?;
        if label.ends_with("KEY") {
            let text: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            let der = STANDARD.decode(text).map_err(|_| KeyError::NoPem)?;
            return Ok((label.to_owned(), der));
        }
        rest = tail;
    }
    Err(KeyError::NoPem)
}

fn der_length(length: usize) -> Vec<u8> {
    if length < 0x80 {
        // Below 128: fits a byte.
        return vec![length as u8];
    }
    let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
    // At most eight length bytes.
    std::iter::once(0x80 | bytes.len() as u8).chain(bytes).collect()
}
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(der_length(content.len()));
    out.extend_from_slice(content);
    out
}
fn rsa_spki(public: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend_from_slice(public);
    let mut content = RSA_ALGORITHM.to_vec();
    content.extend(der(0x03, &bits));
    der(0x30, &content)
}

/// Modulus and exponent of an `RSAPublicKey`, without leading zeros.
fn rsa_parts(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (first, rest) = input.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = if *length < 0x80 {
            (usize::from(*length), rest)
        } else {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)), rest)
        };
        (*first == tag).then(|| rest.split_at_checked(length)).flatten()
    }
    let (sequence, _) = element(der, 0x30)?;
    let (modulus, rest) = element(sequence, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    let trim = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
    Some((trim(modulus), trim(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies() {
        let key = SigningKey::ephemeral().unwrap();
        let signature = key.sign(b"hello").unwrap();
        assert!(key.public.verify(b"hello", &signature));
        assert!(!key.public.verify(b"hullo", &signature));
        let jwk = key.public.jwk();
        assert_eq!(jwk["kty"], "EC");
        assert_eq!(jwk["x"].as_str().unwrap().len(), 43);
    }

    #[test]
    fn refuses_what_is_no_key() {
        assert!(matches!(SigningKey::from_pem("nothing"), Err(KeyError::NoPem)));
        let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(SigningKey::from_pem(pem), Err(KeyError::Unsupported(_))));
    }
}
