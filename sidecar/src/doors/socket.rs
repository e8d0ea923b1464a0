//! The Unix socket: made with the permissions that its users need, and accepted on.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::admission::{Accepted, Admission, Caller};

/// Wait after an error that will be there again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may stay silent before it has said anything.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The place is taken by something that is no socket.
    #[error("{} exists and is no socket: remove it or choose another --workload-api-socket", .0.display())]
    Taken(PathBuf),
    /// Another process serves it.
    #[error("{} is served by another process: choose another --workload-api-socket", .0.display())]
    Served(PathBuf),
    /// The system refused.
    #[error("cannot {what} {} (--workload-api-socket): {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Listens on `path` with the permission bits `mode`; what a crash left there is replaced. The directory has to exist.
/// Must be called on the runtime that will serve it.
///
/// # Errors
/// See [`SocketError`].
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let fail = |what| {
        move |source| SocketError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if StdStream::connect(path).is_ok() {
                return Err(SocketError::Served(path.to_owned()));
            }
            fs::remove_file(path).map_err(fail("replace"))?;
        }
        Ok(_) => return Err(SocketError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("use")(error)),
    }
    let listener = UnixListener::bind(path).map_err(fail("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail("protect"))?;
    Ok(listener)
}

/// Accepts for ever; a connection is passed on with its first byte. One too many is closed.
pub async fn accept(
    listener: UnixListener,
    admission: Admission,
    accepted: mpsc::Sender<io::Result<Accepted>>,
) {
    let mut silent = tokio::task::JoinSet::new();
    loop {
        let io = tokio::select! {
            Some(_) = silent.join_next(), if !silent.is_empty() => continue,
            io = listener.accept() => io,
        };
        let io = match io {
            Ok((io, _)) => io,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the workload API socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(connection) = admission.connection(io) else {
            metrics::counter!("postern_workload_api_connections_total", "outcome" => "too_many")
                .increment(1);
            continue;
        };
        let outcome = match connection.caller() {
            Caller::Admitted => "admitted",
            Caller::Stranger { uid } => {
                tracing::warn!(
                    uid,
                    "a process of another user knocks on the workload API socket"
                );
                "stranger"
            }
        };
        metrics::counter!("postern_workload_api_connections_total", "outcome" => outcome)
            .increment(1);
        let accepted = accepted.clone();
        // Bounded by the places for connections; ends within the wait for the first byte.
        silent.spawn(async move {
            let spoke = tokio::time::timeout(FIRST_BYTE, connection.first_byte()).await;
            if matches!(spoke, Ok(Ok(()))) {
                let _ = accepted.send(Ok(connection)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_replaces_a_dead_one_only_and_has_its_mode() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("api.sock");
        let first = bind(&path, 0o600).expect("a socket");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(bind(&path, 0o600), Err(SocketError::Served(_))));
        drop(first);
        let second = bind(&path, 0o666).expect("the dead one is replaced");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        drop(second);
        let file = dir.path().join("file");
        fs::write(&file, "precious").expect("written");
        assert!(matches!(bind(&file, 0o600), Err(SocketError::Taken(_))));
        assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
        let missing = bind(&dir.path().join("no/such/dir"), 0o600).expect_err("no directory");
        assert!(missing.to_string().contains("--workload-api-socket"));
    }
}
