//! The live view and the edges: for operators only, as long as they are, and from the sidecar that was asked only.

use std::path::Path;

use mesh_auth::tls::Identity;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use mesh_proto::admin::{EdgesRequest, TapRequest};
use mesh_proto::mesh::report_service_client::ReportServiceClient;
use mesh_proto::mesh::{
    Edge, Edges, ReportAnswer, ReportHello, ReportQuery, SidecarReport, TapBatch, TapEntry,
    TapStarted, edge, report_answer, report_query, sidecar_report,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::support::{ControlApi, Svid};

fn tap(workload: &str) -> TapRequest {
    TapRequest {
        workload: workload.into(),
        ..TapRequest::default()
    }
}

/// A sidecar's end of a report stream, spoken by hand.
struct Reporting {
    reports: mpsc::Sender<SidecarReport>,
    queries: Streaming<ReportQuery>,
}

impl Reporting {
    async fn open(api: &ControlApi, name: &str, svid: &Svid) -> Self {
        let channel = api.dial(Some(&svid.identity), api.roots()).await;
        let (reports, outgoing) = mpsc::channel(8);
        let hello = ReportHello {
            workload: format!("demo/{name}"),
            instance: "1".into(),
            since: 1,
        };
        let reporting = SidecarReport {
            kind: Some(sidecar_report::Kind::Hello(hello)),
        };
        reports.send(reporting).await.expect("room");
        let queries = ReportServiceClient::new(channel.expect("a connection"))
            .report(ReceiverStream::new(outgoing))
            .await
            .expect("a stream")
            .into_inner();
        Self { reports, queries }
    }

    async fn say(&self, kind: sidecar_report::Kind) {
        let report = SidecarReport { kind: Some(kind) };
        self.reports.send(report).await.expect("the stream is open");
    }

    /// Waits for a question and answers it.
    async fn answer(&mut self, answer: report_answer::Answer) -> report_query::Ask {
        let query = self.queries.message().await.expect("open");
        let query = query.expect("a question");
        self.say(sidecar_report::Kind::Answer(ReportAnswer {
            id: query.id,
            answer: Some(answer),
        }))
        .await;
        query.ask.expect("something is asked")
    }
}

#[tokio::test]
async fn nobody_but_operators_may_watch() {
    let api = ControlApi::start(&[]);
    let web = api.workload("web").await;
    for (identity, code) in [
        (None, Code::Unauthenticated),
        (Some(&web.identity), Code::PermissionDenied),
    ] {
        let channel = api.dial(identity, api.roots()).await.expect("a connection");
        let mut admin = AdminServiceClient::new(channel);
        let refused = admin.tap(tap("demo/web")).await.expect_err("no operator");
        assert_eq!(refused.code(), code, "{refused}");
        let refused = admin.edges(EdgesRequest::default()).await;
        assert_eq!(refused.expect_err("no operator").code(), code);
    }
    let mut operator = AdminServiceClient::new(api.operator().await);
    let refused = operator.tap(tap("demo/nobody")).await;
    assert_eq!(refused.expect_err("not registered").code(), Code::NotFound);
}

#[tokio::test]
async fn a_view_shows_what_the_workloads_own_sidecar_tells() {
    let api = ControlApi::start(&[]);
    let (web, other) = (api.workload("web").await, api.workload("other").await);
    let mut sidecar = Reporting::open(&api, "web", &web).await;
    let stranger = Reporting::open(&api, "other", &other).await;
    let mut operator = AdminServiceClient::new(api.operator().await);
    let mut view = operator
        .tap(tap("demo/web"))
        .await
        .expect("a view")
        .into_inner();

    let started = report_answer::Answer::TapStarted(TapStarted {});
    let report_query::Ask::StartTap(asked) = sidecar.answer(started).await else {
        panic!("something else was asked");
    };
    let first = view.message().await.expect("open").expect("a response");
    assert!(first.tapped);
    let batch = |path: &str| {
        let entry = TapEntry {
            path: path.into(),
            ..TapEntry::default()
        };
        sidecar_report::Kind::Tap(TapBatch {
            tap: asked.tap,
            entries: vec![entry],
            dropped: 2,
        })
    };
    stranger.say(batch("/forged")).await;
    // What the stranger said was heard once this has been answered.
    let edges = tokio::spawn({
        let mut operator = AdminServiceClient::new(api.operator().await);
        async move { operator.edges(EdgesRequest::default()).await }
    });
    let told = Edges {
        edges: vec![Edge {
            from: Some(edge::From::Peer(
                "spiffe://test.example/ns/demo/sa/other".into(),
            )),
            requests: 7,
            ..Edge::default()
        }],
        ..Edges::default()
    };
    let mut stranger = stranger;
    let asked_for_edges = stranger
        .answer(report_answer::Answer::Edges(told.clone()))
        .await;
    assert!(matches!(asked_for_edges, report_query::Ask::GetEdges(_)));
    sidecar.answer(report_answer::Answer::Edges(told)).await;
    let edges = edges
        .await
        .expect("it ends")
        .expect("an answer")
        .into_inner();
    assert_eq!(edges.workloads.len(), 2);
    assert_eq!(edges.workloads[0].edges[0].workloads, ["demo/other"]);
    assert!(edges.silent.is_empty());

    sidecar.say(batch("/own")).await;
    let shown = view.message().await.expect("open").expect("a response");
    assert_eq!((shown.entries.len(), shown.dropped), (1, 2));
    assert_eq!(shown.entries[0].path, "/own");
}

#[tokio::test]
async fn a_view_ends_when_its_operator_is_revoked() {
    let api = ControlApi::start(&[]);
    let web = api.workload("web").await;
    let mut sidecar = Reporting::open(&api, "web", &web).await;
    let operator = operator_identity(&api.data().join("operator"));
    let channel = api.dial(Some(&operator), api.roots()).await;
    let mut admin = AdminServiceClient::new(channel.expect("a connection"));
    let mut view = admin
        .tap(tap("demo/web"))
        .await
        .expect("a view")
        .into_inner();
    let started = || report_answer::Answer::TapStarted(TapStarted {});
    sidecar.answer(started()).await;
    assert!(
        view.message()
            .await
            .expect("open")
            .expect("a response")
            .tapped
    );
    api.apply(&format!(
        "{{apiVersion: postern.dev/v1alpha1, kind: Revocation, metadata: {{name: gone, namespace: postern-system}}, spec: {{spiffeId: '{}'}}}}",
        operator.id()
    ))
    .await;
    let ended = view
        .message()
        .await
        .expect_err("he is no operator any more");
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
}

/// What `meshctl` uses as --cert and --key.
fn operator_identity(directory: &Path) -> Identity {
    let chain = CertificateDer::pem_file_iter(directory.join("operator.pem"))
        .expect("a file")
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_file(directory.join("operator.key")).expect("a key");
    Identity::new(chain, key).expect("an identity")
}
