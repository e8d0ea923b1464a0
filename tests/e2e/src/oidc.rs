//! A real OpenID provider, `oidc-provider` from npm, on loopback.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Answer};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/oidc");
/// Written once everything is installed.
const COMPLETE: &str = "complete";

/// The directory with the provider and what it needs; made and filled by whoever needs it first.
fn installed() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let exe = std::env::current_exe().expect("a path");
        let target = exe.ancestors().nth(3).expect("target").to_owned();
        let home = target.join("oidc-provider");
        // Test programs run at the same time; one of them installs.
        let lock = File::create(target.join("oidc-provider.lock")).expect("a lock file");
        lock.lock().expect("locked");
        fs::create_dir_all(&home).expect("made");
        let mut wanted = String::new();
        for name in ["package.json", "package-lock.json", "server.js"] {
            let text = fs::read_to_string(Path::new(SOURCE).join(name)).expect(name);
            fs::write(home.join(name), &text).expect("written");
            wanted.push_str(&text);
        }
        let mark = home.join(COMPLETE);
        if fs::read_to_string(&mark).is_ok_and(|held| held == wanted) {
            return home;
        }
        let status = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&home)
            .stdout(Stdio::null())
            .status();
        assert!(
            status.as_ref().is_ok_and(std::process::ExitStatus::success),
            "npm ci failed ({status:?}): this test needs npm (apt-get install nodejs npm) and a registry that it can reach"
        );
        fs::write(mark, wanted).expect("written");
        home
    })
}

/// A running provider; it ends with this.
#[derive(Debug)]
pub struct Provider {
    child: Child,
    /// Its issuer URL.
    pub issuer: String,
    /// Where it is asked in the clear.
    address: SocketAddr,
    secret: String,
    /// Its certificate, and its clients' credentials; only over TLS.
    files: TempDir,
}

impl Provider {
    /// Starts one and waits until it listens.
    #[must_use]
    pub fn start() -> Self {
        Self::run(tempfile::tempdir().expect("a directory"), &[])
    }

    /// Starts one whose issuer is an `https` URL, with a certificate made for it.
    #[must_use]
    pub fn over_tls() -> Self {
        Self::over_tls_with(&[])
    }

    /// As [`Self::over_tls`], with a client called `id` that proves itself by certificates of the authorities in `ca`.
    #[must_use]
    pub fn over_mutual_tls(id: &str, ca: &Path) -> Self {
        let ca = ca.display().to_string();
        Self::over_tls_with(&[("CLIENT_SPIFFE_ID", id.to_owned()), ("CLIENT_CA", ca)])
    }

    /// As [`Self::over_tls`], with a client called `id` that proves itself by this very certificate, DER (RFC 8705 §2.2).
    #[must_use]
    pub fn over_tls_with_pinned(id: &str, certificate: &[u8]) -> Self {
        let certificate = STANDARD.encode(certificate);
        Self::over_tls_with(&[
            ("CLIENT_SPIFFE_ID", id.to_owned()),
            ("CLIENT_CERTIFICATE", certificate),
        ])
    }

    fn over_tls_with(more: &[(&str, String)]) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let write = |name: &str, text: String| {
            let path = files.path().join(name);
            fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let cert = write("ca.pem", made.cert.pem());
        let key = write("tls.key", made.signing_key.serialize_pem());
        let signer = KeyPair::generate().expect("a key");
        write("signer.key", signer.serialize_pem());
        let (x, y) = signer.public_key_raw()[1..].split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwks = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "signer-1",
            "x": encode(x), "y": encode(y),
        }]});
        let own = [
            ("TLS_CERT", cert),
            ("TLS_KEY", key),
            ("CLIENT_JWKS", jwks.to_string()),
        ];
        let provider = Self::run(files, &[&own, more].concat());
        fs::write(provider.file("secret"), &provider.secret).expect("written");
        provider
    }

    fn run(files: TempDir, environment: &[(&str, String)]) -> Self {
        let mut child = Command::new("node")
            .arg("server.js")
            .current_dir(installed())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node runs (apt-get install nodejs)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        let text = |name: &str| told[name].as_str().expect(name).to_owned();
        Self {
            issuer: text("issuer"),
            address: text("address").parse().expect("host:port"),
            secret: text("secret"),
            files,
            child,
        }
    }

    /// A file for its clients: `ca.pem`, `secret`, and `signer.key`, which is called `signer-1`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn post(&self, path: &str, lines: &str, body: &str) -> Answer {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n{lines}\r\n{body}",
            self.address,
            body.len(),
        );
        http::exchange(self.address, request.as_bytes())
    }

    fn as_client(&self, client: &str, path: &str, body: &str) -> Answer {
        let credentials = STANDARD.encode(format!("{client}:{}", self.secret));
        self.post(
            path,
            &format!("Authorization: Basic {credentials}\r\n"),
            body,
        )
    }

    /// An access token for `resource` by client credentials (RFC 6749 §4.4, RFC 8707).
    #[must_use]
    pub fn token(&self, client: &str, resource: &str) -> String {
        let body = format!("grant_type=client_credentials&scope=read&resource={resource}");
        let answer = self.as_client(client, "/token", &body);
        let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = told["access_token"].as_str();
        token
            .unwrap_or_else(|| panic!("{}{}", answer.head, answer.text()))
            .to_owned()
    }

    /// Another key signs from now on; `keep` older ones stay published.
    pub fn rotate(&self, keep: u32) {
        let answer = self.post(&format!("/_test/rotate?keep={keep}"), "", "");
        assert_eq!(answer.status, 200, "{}", answer.head);
    }

    /// Revokes an access token of `client` (RFC 7009).
    pub fn revoke(&self, client: &str, token: &str) {
        let answer = self.as_client(client, "/token/revocation", &format!("token={token}"));
        assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    }

    /// From now on it thinks that long about every token.
    pub fn delay_introspection(&self, milliseconds: u32) {
        let answer = self.post(&format!("/_test/delay?ms={milliseconds}"), "", "");
        assert_eq!(answer.status, 200, "{}", answer.head);
    }

    /// How often the key set was asked for.
    #[must_use]
    pub fn key_fetches(&self) -> u64 {
        self.count("jwks")
    }

    /// How often it was asked about a token.
    #[must_use]
    pub fn introspections(&self) -> u64 {
        self.count("introspection")
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn count(&self, what: &str) -> u64 {
        let answer = http::get(self.address, "provider", "/_test/counts", "");
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        told["counts"][what].as_u64().expect("a count")
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop();
    }
}
