//! Answers what workers want to know about destinations, and gives up those that are not used any more.
//!
//! An answer is given only when the snapshot that knows it is in force. What is not answered yet is subscribed to, now or by the
//! next stream; who waits for it is told when the control API has said it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::stream::Discovery;
use super::xds::{Client, Wanted};
use crate::lookups::{Found, Lookup, Lookups, Question};

/// Between two looks at what is not used any more.
const LOOK: Duration = Duration::from_secs(60);

/// For how long after the control stream was lost it is believed that there is nobody of the mesh where there was nobody.
const BELIEVED: Duration = Duration::from_secs(3_600);

type Answer = watch::Sender<Option<Found>>;

/// Questions without an answer.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<Lookup, Vec<Answer>>>);

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Lookup, Vec<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, question: Question) {
        let mut waiting = self.lock();
        let answers = waiting.entry(question.lookup).or_default();
        answers.push(question.answer);
    }

    fn answer(&self, lookup: &Lookup, found: Found) {
        for answer in self.lock().remove(lookup).into_iter().flatten() {
            answer.send_replace(Some(found));
        }
    }

    /// Answers what can be told by now.
    fn answer_each(&self, found: impl Fn(&Lookup) -> Option<Found>) {
        self.lock().retain(|lookup, answers| {
            let Some(found) = found(lookup) else {
                return true;
            };
            for answer in answers {
                answer.send_replace(Some(found));
            }
            false
        });
    }

    /// Forgets questions whose answer nobody takes any more, and those to which none can come: they are asked anew.
    fn sweep(&self, is_asked: impl Fn(&Lookup) -> bool) {
        self.lock().retain(|lookup, answers| {
            answers.retain(|answer| !answer.is_closed());
            !answers.is_empty() && is_asked(lookup)
        });
    }
}

impl Discovery {
    /// Takes questions for ever.
    pub(super) async fn answer_for_ever(&self, lookups: &Lookups) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                question = lookups.next() => self.take(question),
                _ = look.tick() => self.forget_unused(),
            }
        }
    }

    fn take(&self, question: Question) {
        let (now, open) = (self.age(), self.is_open());
        let build = |resources: &_| self.build(resources, open);
        let (wanted, snapshot) = self.client().want(&question.lookup, now, build);
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
        match wanted {
            Wanted::Found(found) if open => drop(question.answer.send_replace(Some(found))),
            // What an earlier process knew may be outdated, and no snapshot of it is in force yet.
            Wanted::Found(_) | Wanted::Asked => {
                self.waiters.add(question);
                self.demanded.notify_one();
            }
            // Unanswered: it is refused.
            Wanted::Full => tracing::warn!(
                destination = %question.lookup,
                "more destinations are in use than can be subscribed to by name; see --subscribe all"
            ),
        }
    }

    /// Tells who waits for what `client` has settled. The snapshot that knows it must be in force.
    pub(super) fn answer_settled(&self, client: &mut Client) {
        for (lookup, found) in client.take_settled() {
            self.waiters.answer(&lookup, found);
        }
        if client.holds_everything() {
            // The snapshot knows: they may look again.
            self.waiters.answer_each(|_| Some(Found::Somebody));
        }
        if let Some(counts) = client.destinations() {
            for (state, count) in ["known", "nobody", "asked"].into_iter().zip(counts) {
                #[allow(clippy::cast_precision_loss)]
                metrics::gauge!("postern_destinations", "state" => state).set(count as f64);
            }
            // Services that came bring questions about their endpoints.
            self.demanded.notify_one();
        }
    }

    /// Tells who waits what is known by the snapshot that has come into force.
    pub(super) fn answer_known(&self) {
        let client = self.client();
        self.waiters.answer_each(|lookup| client.found(lookup));
    }

    /// While the control API is away for long, takes nobody for gone any more: who was not there may have come.
    pub(super) async fn doubt_in_time(&self) {
        let mut contact = self.contact.subscribe();
        loop {
            // The sender is held here.
            let _ = contact.wait_for(|is_there| !*is_there).await;
            let back = contact.wait_for(|is_there| *is_there);
            let is_away = tokio::time::timeout(BELIEVED, back).await.is_err();
            if is_away {
                tracing::warn!(
                    after = ?BELIEVED,
                    "the control stream is down: where nobody was, somebody of the mesh may be by now"
                );
                // And again after as long: a contact may have been too short to be seen here.
                self.doubt_absence();
            }
        }
    }

    fn doubt_absence(&self) {
        let open = self.is_open();
        let mut client = self.client();
        let snapshot = client.doubt_absence(|resources| self.build(resources, open));
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
    }

    fn forget_unused(&self) {
        let open = self.is_open();
        let mut client = self.client();
        if !*self.contact.borrow() {
            // What is given up now could not be asked for again.
            self.waiters.sweep(|lookup| client.is_asked(lookup));
            return;
        }
        let used = self.publisher.take_used();
        let build = |resources: &_| self.build(resources, open);
        let snapshot = client.forget(self.age(), &used, build);
        self.waiters.sweep(|lookup| client.is_asked(lookup));
        // That there is nobody somewhere is not worth a write of its own.
        if client.take_unsaved() || snapshot.is_some() {
            self.changed.notify_one();
        }
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
        self.answer_settled(&mut client);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use mesh_auth::{SpiffeId, TrustDomain};
    use mesh_proto::ResourceType;
    use mesh_proto::discovery::DeltaDiscoveryResponse;

    use super::super::clock::SystemClock;
    use super::super::connect::Target;
    use super::super::fake_api::{Authority, DOMAIN};
    use super::super::publisher::Publisher;
    use super::super::status::ControlStatus;
    use super::super::stream::Parts;
    use super::*;
    use crate::admin::Readiness;
    use crate::lookups::Subscribe;
    use crate::snapshot::Snapshot;

    /// What is followed by name, and an address at which there is nobody.
    fn with_nobody() -> (Discovery, Lookup) {
        let authority = Authority::new();
        let domain = TrustDomain::new(DOMAIN).expect("a domain");
        let empty = Snapshot::empty("demo/web-1", domain.clone());
        let shared = Arc::new(ArcSwap::from_pointee(empty));
        let (epochs, _) = watch::channel(0);
        let publisher = Publisher::new(shared, epochs, domain.clone(), vec![authority.root()]);
        let mut client = Client::new("demo/web-1", domain.clone(), Subscribe::Used);
        client.open();
        let nobody = Lookup::parse("/10.0.0.5").expect("an address");
        let build = |_: &_| Ok::<_, String>(());
        client.want(&nobody, 0, build);
        for kind in [ResourceType::Service, ResourceType::Workload] {
            let response = DeltaDiscoveryResponse {
                type_url: kind.type_url().into(),
                removed_resources: vec![nobody.to_string()],
                ..DeltaDiscoveryResponse::default()
            };
            client.receive(response, build);
        }
        let discovery = Discovery::new(Parts {
            target: Target {
                address: "127.0.0.1:1".into(),
                id: SpiffeId::workload(&domain, "mesh", "control-api").expect("an identity"),
                mark: None,
            },
            client,
            restored: None,
            publisher: Arc::new(publisher),
            status: Arc::new(ControlStatus::new()),
            readiness: Arc::new(Readiness::new(&[])),
            clock: Arc::new(SystemClock),
            channels: watch::channel(None).0,
        });
        (discovery, nobody)
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_is_there_is_believed_for_a_while_after_the_stream_was_lost() {
        let (discovery, nobody) = with_nobody();
        let found = || discovery.client().found(&nobody);
        let second = Duration::from_secs(1);
        let story = async {
            for (is_there, lasts, expected) in [
                (true, 2 * BELIEVED, Some(Found::Nobody)),
                (false, BELIEVED - second, Some(Found::Nobody)),
                (true, second, Some(Found::Nobody)),
                (false, BELIEVED - second, Some(Found::Nobody)),
                (false, 2 * second, None),
            ] {
                let change = |there: &mut bool| std::mem::replace(there, is_there) != is_there;
                discovery.contact.send_if_modified(change);
                tokio::time::sleep(lasts).await;
                assert_eq!(found(), expected, "{is_there} for {lasts:?}");
            }
        };
        tokio::select! {
            () = discovery.doubt_in_time() => {}
            () = story => {}
        }
    }

    #[test]
    fn who_waits_is_told_and_who_left_is_forgotten() {
        let waiters = Waiters::default();
        let ask = |host: &str| {
            let (answer, answered) = watch::channel(None);
            let lookup = Lookup::host(host).expect("a host");
            waiters.add(Question { lookup, answer });
            answered
        };
        let (first, second, other) = (ask("a"), ask("a"), ask("b"));
        waiters.answer(&Lookup::host("a").expect("a host"), Found::Nobody);
        assert_eq!(*first.borrow(), Some(Found::Nobody));
        assert_eq!(*second.borrow(), Some(Found::Nobody));
        assert_eq!(*other.borrow(), None);
        waiters.sweep(|_| true);
        assert_eq!(waiters.lock().len(), 1);
        drop(other);
        waiters.sweep(|_| true);
        assert!(waiters.lock().is_empty());
        let given_up = ask("c");
        waiters.sweep(|_| false);
        assert!(waiters.lock().is_empty());
        given_up
            .has_changed()
            .expect_err("it is not waited for in vain");
        let (known, unknown) = (ask("d"), ask("e"));
        waiters.answer_each(|lookup| (lookup.to_string() == "d").then_some(Found::Nobody));
        assert_eq!(*known.borrow(), Some(Found::Nobody));
        assert_eq!(*unknown.borrow(), None);
        waiters.answer_each(|_| Some(Found::Somebody));
        assert_eq!(*unknown.borrow(), Some(Found::Somebody));
    }
}
