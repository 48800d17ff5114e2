//! The cluster's keys: one CA that signs servers and clients, one that signs the front proxy, one
//! key for service-account tokens. Made once, then read; leaf certificates are made anew when they
//! near their end or no longer name what they must.

use std::net::IpAddr;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::Error;
use crate::files::{self, Files};

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// Leaves with less time left than this are renewed at start.
const RENEW_DAYS: i64 = 90;
/// Clocks of nodes may differ a little.
const BACKDATE_HOURS: i64 = 1;

/// PEM texts.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// What a leaf certificate says.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub server: bool,
    pub client: bool,
}

impl Leaf {
    pub fn client(common_name: &str, organizations: &[&str]) -> Self {
        Leaf {
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(|o| (*o).to_owned()).collect(),
            client: true,
            ..Leaf::default()
        }
    }
    pub fn server(common_name: &str, dns_names: &[&str], addresses: &[IpAddr]) -> Self {
        Leaf {
            common_name: common_name.to_owned(),
            dns_names: dns_names.iter().map(|n| (*n).to_owned()).collect(),
            addresses: addresses.to_vec(),
            server: true,
            ..Leaf::default()
        }
    }
}

/// A certificate authority on disk.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `<name>.crt` and `<name>.key`, or makes both.
    pub fn load_or_create(files: &Files, name: &str, common_name: &str) -> Result<Self, Error> {
        let (crt, key) = (files.pki(&format!("{name}.crt")), files.pki(&format!("{name}.key")));
        if !crt.exists() && !key.exists() {
            let pair = KeyPair::generate()?;
            let certificate = authority_params(common_name)?.self_signed(&pair)?;
            files::write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
            files::write(&crt, certificate.pem().as_bytes(), 0o644)?;
        }
        let certificate = files::read(&crt)?;
        let pair = KeyPair::from_pem(&files::read(&key)?).map_err(|e| unusable(&key, &e))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, pair).map_err(|e| unusable(&crt, &e))?;
        Ok(Authority { certificate, issuer })
    }

    pub fn sign(&self, leaf: &Leaf) -> Result<Pair, Error> {
        let key = KeyPair::generate()?;
        let certificate = leaf_params(leaf)?.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads `<name>.crt` and `<name>.key`, or makes them where they are missing, near their end,
    /// of another CA, or do not say what `leaf` says.
    pub fn leaf(&self, files: &Files, name: &str, leaf: &Leaf) -> Result<Pair, Error> {
        let (crt, key) = (files.pki(&format!("{name}.crt")), files.pki(&format!("{name}.key")));
        if let (Ok(certificate), Ok(key)) = (files::read(&crt), files::read(&key))
            && still_good(&certificate, leaf, &self.certificate)
        {
            return Ok(Pair { certificate, key });
        }
        let pair = self.sign(leaf)?;
        files::write(&key, pair.key.as_bytes(), 0o600)?;
        files::write(&crt, pair.certificate.as_bytes(), 0o644)?;
        Ok(pair)
    }
}

/// The private key (PEM) that signs service-account tokens, from `sa.key`, made when absent.
pub fn service_account_key(files: &Files) -> Result<String, Error> {
    let path = files.pki("sa.key");
    if !path.exists() {
        let pair = KeyPair::generate()?;
        files::write(&path, pair.serialize_pem().as_bytes(), 0o600)?;
        files::write(&files.pki("sa.pub"), pair.public_key_pem().as_bytes(), 0o644)?;
    }
    files::read(&path)
}

fn unusable(path: &Path, error: &rcgen::Error) -> Error {
    Error::Key { path: path.display().to_string(), why: error.to_string() }
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = Timestamp::now();
    let at = |time: Timestamp| {
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        // The calendar's months and days fit u8 by definition.
        rcgen::date_time_ymd(time.year().into(), time.month() as u8, time.day() as u8)
            + std::time::Duration::from_secs(
                time.hour() as u64 * 3600 + time.minute() as u64 * 60 + time.second() as u64,
            )
    };
    params.not_before = at(now - SignedDuration::from_hours(BACKDATE_HOURS));
    params.not_after = at(now + SignedDuration::from_hours(days * 24));
}

fn authority_params(common_name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    Ok(params)
}

fn leaf_params(leaf: &Leaf) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(leaf.dns_names.clone())?;
    params.subject_alt_names.extend(leaf.addresses.iter().map(|a| SanType::IpAddress(*a)));
    params.distinguished_name = DistinguishedName::new();
    // One O per certificate: a DistinguishedName holds one value a type; identities here need no more.
    for organization in leaf.organizations.iter().take(1) {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    if leaf.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS);
    Ok(params)
}

fn still_good(certificate: &str, leaf: &Leaf, authority: &str) -> bool {
    check(certificate, leaf, authority).unwrap_or(false)
}

fn check(certificate: &str, leaf: &Leaf, authority: &str) -> Option<bool> {
    use x509_parser::prelude::{GeneralName, parse_x509_pem};
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
    let cert = pem.parse_x509().ok()?;
    let (_, authority_pem) = parse_x509_pem(authority.as_bytes()).ok()?;
    let authority = authority_pem.parse_x509().ok()?;
    let left = cert.validity().not_after.timestamp() - Timestamp::now().as_second();
    let signed = cert.verify_signature(Some(authority.public_key())).is_ok();
    let common_name = cert.subject().iter_common_name().next()?.as_str().ok()?;
    let names = cert.subject_alternative_name().ok().flatten();
    let has = |wanted: &GeneralName| names.as_ref().is_some_and(|n| n.value.general_names.contains(wanted));
    let named = leaf.dns_names.iter().all(|name| has(&GeneralName::DNSName(name)));
    let addressed = leaf.addresses.iter().all(|address| match address {
        IpAddr::V4(v4) => has(&GeneralName::IPAddress(&v4.octets())),
        IpAddr::V6(v6) => has(&GeneralName::IPAddress(&v6.octets())),
    });
    Some(left > RENEW_DAYS * 86400 && signed && common_name == leaf.common_name && named && addressed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_leaves_follow_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        files.create().unwrap();
        let first = Authority::load_or_create(&files, "ca", "kubernetes").unwrap();
        let again = Authority::load_or_create(&files, "ca", "kubernetes").unwrap();
        assert_eq!(first.certificate, again.certificate);

        let address: IpAddr = "10.96.0.1".parse().unwrap();
        let leaf = Leaf::server("kube-apiserver", &["kubernetes", "localhost"], &[address]);
        let one = first.leaf(&files, "apiserver", &leaf).unwrap();
        assert_eq!(one.certificate, again.leaf(&files, "apiserver", &leaf).unwrap().certificate);
        let more = Leaf::server("kube-apiserver", &["kubernetes", "localhost", "extra"], &[address]);
        assert_ne!(one.certificate, again.leaf(&files, "apiserver", &more).unwrap().certificate);

        let other = Authority::load_or_create(&files, "other", "kubernetes").unwrap();
        assert!(!still_good(&one.certificate, &leaf, &other.certificate));
        assert_eq!(service_account_key(&files).unwrap(), service_account_key(&files).unwrap());
    }
}
