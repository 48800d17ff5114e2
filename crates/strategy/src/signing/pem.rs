//! What a signing request carries: a PKCS #10 request that its own key signed, and certificates.
//! Nothing else may get to a signer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::pem::Pem;

const REQUEST: &str = "CERTIFICATE REQUEST";
const CERTIFICATE: &str = "CERTIFICATE";

/// The readable blocks of base64 of PEM; what stands around them is no part of it.
fn blocks(encoded: &str) -> Vec<Pem> {
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    Pem::iter_from_buffer(&bytes).filter_map(Result::ok).collect()
}

pub fn request(encoded: &str) -> Result<(), String> {
    let first = blocks(encoded).into_iter().next().filter(|block| block.label == REQUEST);
    let block = first.ok_or_else(|| format!("PEM block type must be {REQUEST}"))?;
    let (rest, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|why| format!("asn1: structure error: {why}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".into());
    }
    request.verify_signature().map_err(|why| match why {
        X509Error::SignatureVerificationError => "x509: signature verification failure".into(),
        _ => "x509: cannot verify signature: algorithm unimplemented".into(),
    })
}

/// None at all is right too: there is no certificate yet.
pub fn certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let blocks = blocks(encoded);
    if blocks.is_empty() {
        return Err(format!("must contain at least one {CERTIFICATE} PEM block"));
    }
    for block in blocks {
        if block.label != CERTIFICATE {
            return Err(format!("only {CERTIFICATE} PEM blocks are allowed, found {:?}", block.label));
        }
        if block.contents.is_empty() {
            return Err(format!("found {CERTIFICATE} PEM block containing 0 certificates"));
        }
        let mut left = block.contents.as_slice();
        while !left.is_empty() {
            let parsed = X509Certificate::from_der(left);
            (left, _) = parsed.map_err(|why| format!("x509: malformed certificate: {why}"))?;
        }
    }
    Ok(())
}
