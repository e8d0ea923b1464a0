//! The loops that accept connections, from listeners and from other workers.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::crew::{Accept, Desk, Handed, Open, Placed};
use super::drain::Live;

/// Pause after the operating system refuses to accept (out of descriptors): keeps the loop from spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Begins one worker's loops.
pub(super) struct Accepting<'a> {
    pub(super) worker: &'a Rc<Worker>,
    /// Ended by whoever ends the worker.
    pub(super) listeners: &'a mut JoinSet<()>,
    /// End by themselves after `shutdown`: what others have passed on by then is served.
    pub(super) inboxes: &'a mut JoinSet<()>,
    pub(super) shutdown: &'a CancellationToken,
}

impl Accepting<'_> {
    /// Serves what `next` gives, or has another worker do it, and what others pass on.
    pub(super) fn begin<T, F, Fut>(
        &mut self,
        mut desk: Desk,
        next: impl AsyncFn() -> io::Result<T> + 'static,
        serve: F,
    ) where
        T: Accept + 'static,
        F: Fn(Rc<Worker>, T, Live) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let serve = Rc::new(serve);
        if let Some(inbox) = desk.inbox() {
            let (worker, shutdown) = (Rc::clone(self.worker), self.shutdown.clone());
            let handed = take_in(worker, inbox, Rc::clone(&serve), shutdown);
            self.inboxes.spawn_local(handed);
        }
        let worker = Rc::clone(self.worker);
        self.listeners
            .spawn_local(accept(worker, desk, next, serve));
    }
}

async fn accept<T, F, Fut>(
    worker: Rc<Worker>,
    mut desk: Desk,
    next: impl AsyncFn() -> io::Result<T>,
    serve: Rc<F>,
) where
    T: Accept,
    F: Fn(Rc<Worker>, T, Live) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    loop {
        match next().await.and_then(|accepted| desk.place(accepted)) {
            Ok(Placed::Here(accepted, open)) => spawn(&worker, accepted, open, &*serve),
            Ok(Placed::Elsewhere) => worker.counters.handed_over(),
            Err(error) => {
                worker.counters.accept_error();
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn take_in<T, F, Fut>(
    worker: Rc<Worker>,
    mut inbox: mpsc::Receiver<Handed>,
    serve: Rc<F>,
    shutdown: CancellationToken,
) where
    T: Accept,
    F: Fn(Rc<Worker>, T, Live) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    loop {
        let handed = tokio::select! {
            handed = inbox.recv() => handed,
            () = shutdown.cancelled(), if !inbox.is_closed() => {
                inbox.close();
                continue;
            }
        };
        let Some(Handed { packed, open }) = handed else {
            return;
        };
        match T::unpack(packed) {
            Ok(accepted) => spawn(&worker, accepted, Some(open), &*serve),
            Err(error) => {
                worker.counters.accept_error();
                tracing::warn!(%error, "cannot take in what another worker accepted");
            }
        }
    }
}

fn spawn<T, F, Fut>(worker: &Rc<Worker>, accepted: T, open: Option<Open>, serve: &F)
where
    F: Fn(Rc<Worker>, T, Live) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let live = worker.drain.enter_with(open);
    // Boxed: the runtime moves a task five times, all of it.
    let task = Box::pin(serve(Rc::clone(worker), accepted, live));
    // Ends by itself or when the worker's runtime does; counted by `live`.
    tokio::task::spawn_local(task);
}
