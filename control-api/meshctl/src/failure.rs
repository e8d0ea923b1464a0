//! Why a command did not do its work: what happened, why, and what to do next.
//!
//! Owns the mapping from the kind of failure to the exit code.

use std::process::ExitCode;

/// A command's end that is not success.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    what: String,
    why: Option<String>,
    next: Option<String>,
    command: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Problem,
    Usage,
    Unreachable,
}

impl Failure {
    /// Something is wrong with what was asked about (exit code 1).
    pub(crate) fn problem(what: impl Into<String>) -> Self {
        Self::of(Kind::Problem, what)
    }

    /// The command was typed wrongly (exit code 2).
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::of(Kind::Usage, what)
    }

    /// The control API did not answer (exit code 3).
    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Self::of(Kind::Unreachable, what)
    }

    fn of(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            why: None,
            next: None,
            command: None,
        }
    }

    /// Adds the one command that helps most, for `meshctl check`.
    pub(crate) fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// Adds the cause.
    #[allow(clippy::needless_pass_by_value)] // errors are handed over where they are handled for the last time
    pub(crate) fn why(mut self, why: impl ToString) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A refusal by the control API, in its own words.
    pub(crate) fn from_status(what: &str, status: &tonic::Status) -> Self {
        use tonic::Code;
        let failure = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Self::unreachable(what),
            _ => Self::problem(what),
        }
        .why(if status.message().is_empty() {
            status.code().description()
        } else {
            status.message()
        });
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => failure.next(
                "use an operator certificate (`--cert`, `--key`, `--ca`) or the admin socket as the control API's own user",
            ),
            Code::Unavailable | Code::DeadlineExceeded => {
                failure.next("run `meshctl check` to see what is in the way")
            }
            Code::NotFound => failure.next("run `meshctl get` to see what there is"),
            _ => failure,
        }
    }

    /// What happened, in one line.
    pub(crate) fn summary(&self) -> String {
        match &self.why {
            Some(why) => format!("{}: {why}", self.what),
            None => self.what.clone(),
        }
    }

    /// The one command to run, else what to do next, when it is known.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.command.as_deref().or(self.next.as_deref())
    }

    /// Says it on standard error.
    #[allow(clippy::print_stderr)]
    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.what);
        if let Some(why) = &self.why {
            eprintln!("  why: {}", indent(why));
        }
        if let Some(next) = &self.next {
            eprintln!(" next: {}", indent(next));
        }
    }

    /// The exit code of this kind of failure.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Problem => 1,
            Kind::Usage => 2,
            Kind::Unreachable => 3,
        })
    }
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n       ")
}
