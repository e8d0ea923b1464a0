//! Many simulated sidecars.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mesh_auth::tls::Identity;
use mesh_proto::ResourceType;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use super::Target;
use super::enrol::enrol;
use super::expect::{Arrivals, Expectations};
use super::stream::{Progress, Stream, Subscribe};

/// Sidecars whose streams are open. They run on the current thread, inside [`Fleet::run_until`].
pub(crate) struct Fleet {
    local: LocalSet,
    tasks: JoinSet<anyhow::Result<()>>,
    expectations: Rc<Expectations>,
    progress: Vec<Rc<Progress>>,
    greeted: mpsc::Receiver<()>,
    greeter: mpsc::Sender<()>,
    target: Target,
}

impl Fleet {
    pub(crate) fn new(target: Target) -> Self {
        let (greeter, greeted) = mpsc::channel(64);
        Self {
            local: LocalSet::new(),
            tasks: JoinSet::new(),
            expectations: Rc::default(),
            progress: Vec::new(),
            greeted,
            greeter,
            target,
        }
    }

    /// Gets certificates for join tokens, `at_once` at a time. Returns the identities in the tokens' order, and how long
    /// each took.
    pub(crate) async fn enrol(
        &self,
        tokens: &[String],
        at_once: usize,
    ) -> anyhow::Result<Vec<(Identity, Duration)>> {
        let next = std::cell::Cell::new(0);
        let done = std::cell::RefCell::new(Vec::new());
        let worker = || async {
            while let Some(token) = tokens.get(next.get()) {
                let index = next.replace(next.get() + 1);
                let started = Instant::now();
                let identity = enrol(&self.target, token).await?;
                done.borrow_mut().push((index, identity, started.elapsed()));
            }
            anyhow::Ok(())
        };
        let workers: Vec<_> = (0..at_once.max(1)).map(|_| worker()).collect();
        futures_util::future::try_join_all(workers).await?;
        let mut done = done.into_inner();
        done.sort_by_key(|(index, _, _)| *index);
        Ok(done.into_iter().map(|(_, i, t)| (i, t)).collect())
    }

    /// Opens the stream of one more sidecar; see [`Self::greeted`].
    pub(crate) fn add(
        &mut self,
        workload: &str,
        identity: Identity,
        subscriptions: &Rc<HashMap<ResourceType, Subscribe>>,
    ) {
        let progress = Rc::new(Progress::default());
        let index = self.progress.len();
        self.progress.push(Rc::clone(&progress));
        let stream = Stream {
            target: self.target.clone(),
            workload: workload.to_owned(),
            identity,
            subscriptions: Rc::clone(subscriptions),
            index,
            expectations: Rc::clone(&self.expectations),
            progress,
            greeted: self.greeter.clone(),
        };
        self.tasks.spawn_local_on(stream.follow(), &self.local);
    }

    /// How many sidecars there are.
    pub(crate) fn len(&self) -> usize {
        self.progress.len()
    }

    /// Resources and their bytes that arrived so far, all sidecars together.
    pub(crate) fn received(&self) -> (u64, u64) {
        let sum = |f: fn(&Progress) -> u64| self.progress.iter().map(|p| f(p)).sum();
        (sum(|p| p.resources.get()), sum(|p| p.bytes.get()))
    }

    /// Waits until `sidecars` more have a first response of every type they subscribed to.
    pub(crate) async fn greeted(&mut self, sidecars: usize, limit: Duration) -> anyhow::Result<()> {
        let Self {
            local,
            tasks,
            greeted,
            ..
        } = self;
        let waiting = async {
            for _ in 0..sidecars {
                tokio::select! {
                    _ = greeted.recv() => {}
                    Some(ended) = tasks.join_next() => failed(ended)?,
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(limit, local.run_until(waiting))
            .await
            .with_context(|| {
                format!("not all of {sidecars} streams were answered within {limit:?}")
            })?
    }

    /// Collects when every sidecar next acknowledges a resource, or its removal. Made before the change.
    pub(crate) fn expect(&self, kind: ResourceType, name: &str) -> Arrivals {
        self.expectations.add(kind, name, self.len())
    }

    /// Lets the sidecars run while `future` does; fails when one of their streams ends.
    pub(crate) async fn run_until<T>(
        &mut self,
        future: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let Self { local, tasks, .. } = self;
        local
            .run_until(async {
                tokio::select! {
                    outcome = future => outcome,
                    Some(ended) = tasks.join_next() => {
                        failed(ended)?;
                        bail!("a simulated sidecar ended")
                    }
                }
            })
            .await
    }
}

fn failed(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended
        .context("a simulated sidecar failed")?
        .context("a simulated sidecar ended")
}
