//! The administration socket: whoever may open it is asked for by the kernel.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Accepted, Caller};

/// Wait after an error that will be there again at once.
const ACCEPT_ERROR: Duration = Duration::from_millis(50);

/// Listens on `socket`, which only its owner may open.
///
/// # Errors
/// Something that is no socket is in its place, or the path cannot be used.
pub fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    match fs::symlink_metadata(socket) {
        // The store's lock has shown that no other control API is alive here: a leftover of a crash.
        Ok(found) if found.file_type().is_socket() => fs::remove_file(socket)
            .with_context(|| format!("cannot replace {}", socket.display()))?,
        Ok(_) => anyhow::bail!(
            "{} exists and is no socket: remove it or choose another --admin-socket",
            socket.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot use {} (--admin-socket)", socket.display()));
        }
    }
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen on {} (--admin-socket)", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", socket.display()))?;
    Ok(listener)
}

/// Accepts connections until `stop`.
pub async fn accept(
    listener: UnixListener,
    sender: mpsc::Sender<io::Result<Accepted<UnixStream>>>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let io = match accepted {
            Ok((io, _)) => io,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin socket");
                tokio::time::sleep(ACCEPT_ERROR).await;
                continue;
            }
        };
        let caller = Caller {
            uid: io.peer_cred().ok().map(|c| c.uid()),
            address: "unix".into(),
            ..Caller::default()
        };
        let accepted = Accepted {
            io,
            caller,
            _permits: vec![],
            deadline: None,
        };
        if sender.send(Ok(accepted)).await.is_err() {
            return;
        }
    }
}
