//! `meshctl token`: one-time join tokens.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use mesh_proto::admin::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, ListJoinTokensRequest, RevokeJoinTokenRequest,
};
use serde_json::json;

use crate::cli::{Format, TokenCommand};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Makes a token.
pub(crate) async fn create(
    admin: &mut Admin,
    workload: &str,
    ttl_seconds: u32,
) -> Result<CreateJoinTokenResponse, Failure> {
    let request = CreateJoinTokenRequest {
        workload: workload.to_owned(),
        ttl_seconds,
    };
    admin
        .create_join_token(request)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status(&format!("no token for {workload}"), &status))
}

pub(super) async fn run(
    admin: &mut Admin,
    command: TokenCommand,
    format: Format,
) -> Result<ExitCode, Failure> {
    match command {
        TokenCommand::Create { workload, ttl, to } => {
            hand_out(admin, &workload, ttl, to.as_deref(), format).await?;
        }
        TokenCommand::List => list(admin, format).await?,
        TokenCommand::Revoke { id } => {
            let answer = admin
                .revoke_join_token(RevokeJoinTokenRequest { id: id.clone() })
                .await
                .map_err(|s| Failure::from_status(&format!("token {id} was not revoked"), &s))?;
            let revision = answer.into_inner().revision;
            let value = json!({"id": id, "outcome": "revoked", "revision": revision});
            output::print(format, &value, || {
                format!("token {id} revoked (revision {revision})\n")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a token and shows it, or keeps it in a new file.
pub(super) async fn hand_out(
    admin: &mut Admin,
    workload: &str,
    ttl: u32,
    to: Option<&Path>,
    format: Format,
) -> Result<(), Failure> {
    match to {
        Some(file) => {
            // Opened first: a token that cannot be kept is not made.
            let mut kept = NewFile::create(file)?;
            let made = create(admin, workload, ttl).await?;
            kept.fill(made.token.as_bytes())?;
            let value = json!({
                "id": made.id, "file": file, "workload": workload, "spiffe_id": made.spiffe_id,
                "expires_at": moment::rfc3339(made.expires_at), "revision": made.revision,
            });
            output::print(format, &value, || {
                format!(
                    "file      {}\nid        {}\nidentity  {}\nexpires   {}\n",
                    file.display(),
                    made.id,
                    made.spiffe_id,
                    moment::relative(made.expires_at, moment::unix_now()),
                )
            })?;
        }
        None => {
            let made = create(admin, workload, ttl).await?;
            let now = moment::unix_now();
            let value = json!({
                "id": made.id, "token": made.token, "workload": workload, "spiffe_id": made.spiffe_id,
                "expires_at": moment::rfc3339(made.expires_at), "revision": made.revision,
            });
            output::print(format, &value, || {
                format!(
                    "token     {}\nid        {}\nidentity  {}\nexpires   {}\n\nShown once. Put it into a file that only the sidecar can read and start\n  \
                     sidecar run --workload {workload} --join-token-file FILE ...\n",
                    made.token,
                    made.id,
                    made.spiffe_id,
                    moment::relative(made.expires_at, now),
                )
            })?;
        }
    }
    Ok(())
}

/// A file of mode 0600 that did not exist before and is removed again unless it is filled.
struct NewFile<'a> {
    file: File,
    path: &'a Path,
    filled: bool,
}

impl<'a> NewFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| {
                Failure::problem(format!(
                    "no token was made: {} cannot be created",
                    path.display()
                ))
                .why(e)
            })?;
        Ok(Self {
            file,
            path,
            filled: false,
        })
    }

    fn fill(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| {
                Failure::problem(format!(
                    "the token was made but not kept in {}",
                    self.path.display()
                ))
                .why(e)
            })?;
        self.filled = true;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.filled {
            std::fs::remove_file(self.path).ok();
        }
    }
}

async fn list(admin: &mut Admin, format: Format) -> Result<(), Failure> {
    let tokens = admin
        .list_join_tokens(ListJoinTokensRequest {})
        .await
        .map_err(|status| Failure::from_status("no tokens could be listed", &status))?
        .into_inner()
        .tokens;
    let value = json!({"tokens": tokens.iter().map(|t| json!({
        "id": t.id, "workload": t.workload, "spiffe_id": t.spiffe_id,
        "expires_at": moment::rfc3339(t.expires_at), "state": t.state,
    })).collect::<Vec<_>>()});
    let now = moment::unix_now();
    output::print(format, &value, || {
        if tokens.is_empty() {
            return "no tokens (make one with `meshctl token create NAMESPACE/NAME`)\n".to_owned();
        }
        let mut table = Table::new(&["ID", "WORKLOAD", "IDENTITY", "STATE", "EXPIRES"]);
        for t in &tokens {
            let tone = match t.state.as_str() {
                "unused" => Tone::Good,
                _ => Tone::Dim,
            };
            table.row([
                t.id.as_str().into(),
                t.workload.as_str().into(),
                t.spiffe_id.as_str().into(),
                Cell::toned(&t.state, tone),
                moment::relative(t.expires_at, now).into(),
            ]);
        }
        table.render(output::colour())
    })
}
