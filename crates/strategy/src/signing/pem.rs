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

/// What some readers of PEM skip and others take.
const UNREADABLE: &str = "PEM blocks must be base64 between a BEGIN and an END line of one label, no PEM block headers are permitted";

/// The blocks of base64 of PEM; what stands around them is no part of it. Readers differ in what they
/// do with a block that is damaged, has headers or ends as another: were one passed over here, what is
/// judged and what is signed could be two things.
fn blocks(encoded: &str, label: &str) -> Result<Vec<Pem>, String> {
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    let read: Result<Vec<Pem>, _> = Pem::iter_from_buffer(&bytes).collect();
    let blocks = read.map_err(|_| UNREADABLE)?;
    let labelled = blocks.iter().filter(|block| block.label == label).count();
    let count = |mark: String| bytes.windows(mark.len()).filter(|text| *text == mark.as_bytes()).count();
    let framed = ["BEGIN", "END"].into_iter().all(|mark| {
        count(format!("-----{mark} ")) == blocks.len()
            && count(format!("-----{mark} {label}-----")) == labelled
    });
    if framed { Ok(blocks) } else { Err(UNREADABLE.into()) }
}

/// The request in DER. It is the only block: the first to one reader is the last to another.
fn sole(encoded: &str) -> Result<Vec<u8>, String> {
    let mut blocks = blocks(encoded, REQUEST)?.into_iter();
    let first = blocks.next().filter(|block| block.label == REQUEST);
    let block = first.ok_or_else(|| format!("PEM block type must be {REQUEST}"))?;
    match blocks.next() {
        None => Ok(block.contents),
        Some(_) => Err(format!("must contain one {REQUEST} PEM block and no other")),
    }
}

fn parsed(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|why| format!("asn1: structure error: {why}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".into());
    }
    Ok(request)
}

pub fn request(encoded: &str) -> Result<(), String> {
    parsed(&sole(encoded)?)?.verify_signature().map_err(|why| match why {
        X509Error::SignatureVerificationError => "x509: signature verification failure".into(),
        _ => "x509: cannot verify signature: algorithm unimplemented".into(),
    })
}

/// The groups a request asks for. Fails where one cannot be read as text: it could be any.
pub fn organizations(encoded: &str) -> Result<Vec<String>, String> {
    let der = sole(encoded)?;
    let subject = parsed(&der)?.certification_request_info.subject;
    let text = |why: X509Error| format!("x509: an organization of the subject is not readable: {why}");
    subject.iter_organization().map(|name| name.as_str().map(str::to_owned).map_err(text)).collect()
}

/// None at all is right too: there is no certificate yet.
pub fn certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let blocks = blocks(encoded, CERTIFICATE)?;
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
