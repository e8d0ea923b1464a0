//! What ends a request's stream before it is done: its token expires.
//!
//! Nothing is registered for an exchange that is over before it had to wait.

use mesh_auth::Reason;
use mesh_auth::token::{StreamEnd, Verified};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::source::Source;
use crate::http::ending::Ending;
use crate::snapshot::Snapshot;
use crate::worker::Worker;
use crate::worker::metrics::Direction;
use crate::worker::review::{Review, Subject, Topic};

/// How long one stream may stay open.
pub struct Lifetime<'a>(State<'a>);

enum State<'a> {
    /// Without a token nothing ends it.
    Unlimited,
    /// It has not had to wait yet.
    Fresh {
        worker: &'a Worker,
        source: &'a Source,
        end: StreamEnd,
    },
    /// Under review.
    Registered(Review),
}

impl<'a> Lifetime<'a> {
    /// The lifetime of a stream on `path` and `port` that came with `token`.
    pub fn new(
        worker: &'a Worker,
        source: &'a Source,
        token: Option<&Rc<Verified>>,
        path: &str,
        port: u16,
    ) -> Self {
        let Some(token) = token else {
            return Self(State::Unlimited);
        };
        let end = token.stream_end(path, port);
        if end == StreamEnd::Never {
            return Self(State::Unlimited);
        }
        Self(State::Fresh {
            worker,
            source,
            end,
        })
    }
}

impl Ending for Lifetime<'_> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if let State::Fresh {
            worker,
            source,
            end,
        } = &self.0
        {
            let ends_at = match end {
                StreamEnd::At(at) => Some(*at),
                StreamEnd::Never => None,
            };
            let subject = TokenStream {
                peer: source.peer_name().into(),
                ends_at,
            };
            let review = worker
                .reviews
                .register(Box::new(subject), &worker.snapshot());
            self.0 = State::Registered(review);
        }
        match &self.0 {
            State::Registered(review) => review.poll(cx),
            State::Unlimited | State::Fresh { .. } => Poll::Pending,
        }
    }
}

/// A stream that was opened with a token.
struct TokenStream {
    peer: Box<str>,
    ends_at: Option<i64>,
}

impl Subject for TokenStream {
    fn topics(&self) -> &[Topic] {
        &[Topic::Token]
    }

    fn review(&self, _: &Snapshot) -> Option<Reason> {
        None
    }

    fn expiry(&self) -> Option<(i64, Reason)> {
        self.ends_at.map(|at| (at, Reason::TokenExpired))
    }

    fn direction(&self) -> Direction {
        Direction::Inbound
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}
