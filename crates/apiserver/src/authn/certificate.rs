//! Client certificates: the common name is the user, the organisations are the groups.

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::seams::UserInfo;

/// Where Kubernetes puts a user's uid into a certificate's subject.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// Whom a certificate stands for, read once for all requests of its connection.
#[derive(Debug)]
pub struct Peer {
    pub user: UserInfo,
    /// In seconds since 1970; a connection may outlast its certificate.
    pub not_after: i64,
}

/// The peer of a certificate that TLS has verified already; `None` when it names nobody.
pub fn peer(der: &[u8]) -> Option<Peer> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push(super::AUTHENTICATED.to_owned());
    let uid = subject
        .iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == UID_OID)
        .and_then(|attribute| attribute.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let fingerprint = super::hex_sha256(der);
    let extra =
        [(super::token::CREDENTIAL_EXTRA.to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    let not_after = certificate.validity().not_after.timestamp();
    Some(Peer { user: UserInfo { name, uid, groups, extra }, not_after })
}
