//! Certificates, and what is agreed on when a connection is made secure.
//!
//! A certificate comes from files, or is made on the first run, for who tries things out. Files
//! are read again every few seconds: whoever renews a certificate replaces them, and connections
//! that are made from then on get the new one. What can't be used leaves the old one in place: a
//! certificate and its key are replaced one after the other.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;

/// How often the files are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Sessions of QUIC that a reactor remembers, so that clients can come back without a round trip.
/// Each is used once: what was sent with it can't be played back.
const SESSIONS: usize = 20_000;
/// Names in the certificate that is made.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The file of a certificate that was made for development, in its directory.
pub const OWN_CERTIFICATE: &str = "certificate.pem";
const OWN_KEY: &str = "key.pem";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file isn't what it should be.
    #[error("{}: {detail}", path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The key isn't the certificate's, or of a kind that isn't known.
    #[error("{} and {}: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// One could not be made.
    #[error("making a certificate: {0}")]
    NotMade(#[from] rcgen::Error),
    /// There is no randomness.
    #[error("configuring TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate with its key, and where they are.
#[derive(Debug)]
pub struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    shown: Arc<Shown>,
    /// For HTTP/1.1 and HTTP/2, of all reactors: a client may come back to another one.
    pub(crate) over_tcp: Arc<ServerConfig>,
}

/// What new connections are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().expect("nothing panics while it holds the lock").clone())
    }
}

impl Certificates {
    /// Those of PEM files: a certificate with those of its issuers behind it, and its key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Certificates, CertificateError> {
        let shown = Arc::new(Shown(RwLock::new(Arc::new(load(certificate, key)?))));
        let mut over_tcp = config(&shown, rustls::ALL_VERSIONS, &[b"h2", b"http/1.1"])?;
        over_tcp.ticketer = ring::Ticketer::new()?;
        let (certificate, key) = (certificate.to_path_buf(), key.to_path_buf());
        Ok(Certificates { certificate, key, shown, over_tcp: Arc::new(over_tcp) })
    }

    /// One for development, which nobody vouches for: that of a directory, where it is made if
    /// there is none.
    pub fn self_signed(directory: &Path) -> Result<Certificates, CertificateError> {
        let (certificate, key) = (directory.join(OWN_CERTIFICATE), directory.join(OWN_KEY));
        if !certificate.exists() {
            let made = rcgen::generate_simple_self_signed(OWN_NAMES.map(String::from))?;
            let private = made.signing_key.serialize_pem();
            fs::create_dir_all(directory).map_err(at(directory))?;
            // The certificate last: with it, both are there.
            write(&key, &private, 0o600)?;
            write(&certificate, &made.cert.pem(), 0o644)?;
        }
        Certificates::read(&certificate, &key)
    }

    /// The certificate's file.
    pub fn file(&self) -> &Path {
        &self.certificate
    }

    /// Reads the files again from time to time, for ever.
    pub async fn follow(&self) {
        let mut refused = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.read_again() {
                Ok(true) => tracing::info!("{} is new, and shown", self.certificate.display()),
                Ok(false) => refused.clear(),
                Err(error) => {
                    let why = error.to_string();
                    if why != refused {
                        tracing::warn!("{why}; the certificate that was read before stays");
                    }
                    refused = why;
                }
            }
        }
    }

    /// Whether there was something new.
    fn read_again(&self) -> Result<bool, CertificateError> {
        let found = load(&self.certificate, &self.key)?;
        let mut shown = self.shown.0.write().expect("nothing panics while it holds the lock");
        let is_new = shown.cert != found.cert;
        if is_new {
            *shown = Arc::new(found);
        }
        Ok(is_new)
    }

    /// For QUIC, where a client that was here before may send with its first packet.
    pub(crate) fn over_quic(&self, protocols: &[&[u8]]) -> Result<ServerConfig, CertificateError> {
        let mut config = config(&self.shown, &[&rustls::version::TLS13], protocols)?;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        // All of it, says RFC 9001, 4.6.1; QUIC's own flow control bounds it.
        config.max_early_data_size = u32::MAX;
        Ok(config)
    }
}

fn config(
    shown: &Arc<Shown>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> Result<ServerConfig, CertificateError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(shown.clone());
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn at(path: &Path) -> impl Fn(io::Error) -> CertificateError {
    move |source| CertificateError::Io { path: path.to_path_buf(), source }
}

/// A certificate and its key, which belong together.
fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let not_pem = |path: &Path, detail: String| {
        let path = path.to_path_buf();
        CertificateError::NotPem { path, detail }
    };
    let text = fs::read(certificate).map_err(at(certificate))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| not_pem(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(not_pem(certificate, "there is no certificate in it (PEM)".to_string()));
    }
    let text = fs::read(key).map_err(at(key))?;
    let private = PrivateKeyDer::from_pem_slice(&text);
    let private =
        private.map_err(|error| not_pem(key, format!("no private key (PEM): {error}")))?;
    let found = CertifiedKey::from_der(chain, private, &ring::default_provider());
    found.map_err(|source| {
        let (certificate, key) = (certificate.to_path_buf(), key.to_path_buf());
        CertificateError::Unusable { certificate, key, source }
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(directory: &Path) -> [String; 2] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        let text = [made.cert.pem(), made.signing_key.serialize_pem()];
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("certificate.pem"), &text[0]).unwrap();
        fs::write(directory.join("key.pem"), &text[1]).unwrap();
        text
    }

    #[test]
    fn files_are_read_again_and_what_does_not_fit_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let made_first = made(scratch.path());
        let certificates = Certificates::self_signed(scratch.path()).unwrap();
        let shown = || certificates.shown.0.read().unwrap().cert.clone();
        let first = shown();
        assert!(!certificates.read_again().unwrap());
        // The certificate is replaced before its key.
        let other = made(scratch.path());
        fs::write(scratch.path().join("key.pem"), &made_first[1]).unwrap();
        let error = certificates.read_again().unwrap_err();
        assert!(matches!(error, CertificateError::Unusable { .. }), "{error}");
        assert_eq!(shown(), first);
        fs::write(scratch.path().join("key.pem"), &other[1]).unwrap();
        assert!(certificates.read_again().unwrap());
        assert_ne!(shown(), first);
        // Half of a file, no file, and a file of something else.
        for text in [&other[0][..other[0].len() / 2], "", "certificate"] {
            fs::write(scratch.path().join("certificate.pem"), text).unwrap();
            let error = certificates.read_again().unwrap_err();
            assert!(matches!(error, CertificateError::NotPem { .. }), "{error}");
        }
        fs::remove_file(scratch.path().join("key.pem")).unwrap();
        fs::write(scratch.path().join("certificate.pem"), &other[0]).unwrap();
        assert!(matches!(certificates.read_again().unwrap_err(), CertificateError::Io { .. }));
    }

    #[test]
    fn one_is_made_once_and_its_key_is_nobody_elses() {
        use std::os::unix::fs::MetadataExt as _;
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("tls");
        Certificates::self_signed(&directory).unwrap();
        let first = fs::read(directory.join(OWN_CERTIFICATE)).unwrap();
        let again = Certificates::self_signed(&directory).unwrap();
        assert_eq!(fs::read(again.file()).unwrap(), first);
        assert_eq!(fs::metadata(directory.join(OWN_KEY)).unwrap().mode() & 0o777, 0o600);
    }
}
