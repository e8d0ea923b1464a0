//! Change of roots, with workloads that are there, that are away, and with crashes.

use mesh_proto::admin::authority_service_client::AuthorityServiceClient;
use mesh_proto::admin::{
    RotateRequest, RotationStatusRequest, RotationStatusResponse, RotationStep,
};
use tonic::{Code, Status};

use crate::support::{ControlApi, issue, roots_of};

async fn take(
    api: &ControlApi,
    step: RotationStep,
    force: bool,
) -> Result<RotationStatusResponse, Status> {
    let request = RotateRequest {
        step: step.into(),
        force,
    };
    let mut client = AuthorityServiceClient::new(api.operator().await);
    client
        .rotate(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn status(api: &ControlApi) -> RotationStatusResponse {
    let mut client = AuthorityServiceClient::new(api.operator().await);
    let status = client.rotation_status(RotationStatusRequest {}).await;
    status.expect("a status").into_inner()
}

#[tokio::test]
async fn who_missed_the_change_of_roots_follows_it_until_the_old_root_is_retired() {
    let mut api = ControlApi::start(&[]);
    let old_roots = api.roots();
    let web = api.workload("web").await;
    let operator = api.data().join("operator");
    let operator_before = std::fs::read(operator.join("operator.pem")).expect("a certificate");

    let refused = take(&api, RotationStep::Retire, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let prepared = take(&api, RotationStep::Prepare, false)
        .await
        .expect("prepared");
    assert_eq!(
        (prepared.phase.as_str(), prepared.roots.len()),
        ("prepared", 2)
    );
    assert!(
        prepared.notes[0].contains("demo/web"),
        "{:?}",
        prepared.notes
    );
    assert_eq!(api.roots().len(), 2, "whoever starts now trusts both");
    assert_eq!(roots_of(&operator.join("ca.pem")).len(), 2);

    api = api.restart();
    let activated = take(&api, RotationStep::Next, false)
        .await
        .expect("activated");
    assert_eq!(activated.phase, "activated");
    assert_eq!(activated.waiting[0].workload, "demo/web");
    let operator_after = std::fs::read(operator.join("operator.pem")).expect("a certificate");
    assert_ne!(operator_before, operator_after);

    // It knows only the old root and shows a certificate of it; the server's own is of the new one.
    api = api.restart();
    let channel = api.dial(Some(&web.identity), old_roots.clone()).await;
    let renewed = issue(channel.expect("the bridge is followed"), None).await;
    let renewed = renewed.expect("renewed");
    assert!(renewed.identity.chain().len() > 1, "with the bridge");

    api.register("away").await;
    let token = api.join_token("demo/away").await;
    api.issue(&token).await.expect("of the new root");
    let retired = take(&api, RotationStep::Retire, false)
        .await
        .expect("nobody is left");
    assert_eq!((retired.phase.as_str(), retired.roots.len()), ("idle", 1));
    let new_roots = api.roots();
    assert!(new_roots.len() == 1 && new_roots != old_roots);
    assert!(!api.data().join("ca.key").exists());

    api = api.restart();
    assert!(
        api.dial(None, old_roots).await.is_err(),
        "the old root is over"
    );
    let channel = api.dial(Some(&web.identity), new_roots.clone()).await;
    let refused = match channel {
        Err(_) => true,
        Ok(channel) => issue(channel, None).await.is_err(),
    };
    assert!(refused, "and so are its certificates");
    let channel = api.dial(Some(&renewed.identity), new_roots).await;
    issue(channel.expect("a connection"), None)
        .await
        .expect("the new one is good");
}

#[tokio::test]
async fn retirement_waits_for_certificates_in_use_and_names_them() {
    let api = ControlApi::start(&[]);
    api.workload("web").await;
    take(&api, RotationStep::Prepare, false)
        .await
        .expect("prepared");
    take(&api, RotationStep::Activate, false)
        .await
        .expect("activated");
    let refused = take(&api, RotationStep::Next, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in ["demo/web", "is away", "--force"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let retired = take(&api, RotationStep::Next, true).await.expect("forced");
    assert_eq!(retired.phase, "idle");
    // Forced from the start, nothing is left out.
    let rotated = take(&api, RotationStep::Retire, true)
        .await
        .expect("forced");
    assert_eq!(rotated.phase, "idle");
    assert_ne!(rotated.roots[0].sha256, retired.roots[0].sha256);
}

#[tokio::test]
async fn a_prepared_root_can_be_given_up() {
    let api = ControlApi::start(&[]);
    let before = status(&api).await;
    take(&api, RotationStep::Prepare, false)
        .await
        .expect("prepared");
    take(&api, RotationStep::Cancel, false)
        .await
        .expect("cancelled");
    assert_eq!(status(&api).await.roots, before.roots);
    assert_eq!(api.roots().len(), 1);
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_where_it_was() {
    let mut api = ControlApi::start(&[]);
    let web = api.workload("web").await;
    let mut identity = web.identity;
    let mut roots = api.roots();
    let mut rotations = 0;
    for attempt in 0..24u64 {
        let before = status(&api).await;
        let step = tokio::time::timeout(
            // The moment of the crash wanders over the step; a step takes a few milliseconds.
            std::time::Duration::from_micros(attempt * 700),
            take(&api, RotationStep::Next, true),
        );
        let answer = step.await;
        api = api.restart();
        let after = status(&api).await;
        if let Ok(Ok(said)) = answer {
            assert_eq!(said.phase, after.phase, "what was said is so");
        }
        let order = ["idle", "prepared", "activated"];
        let place = |phase: &str| order.iter().position(|p| *p == phase).expect("a phase");
        let moved = (place(&after.phase) + 3 - place(&before.phase)) % 3;
        assert!(moved <= 1, "{} after {}", after.phase, before.phase);
        rotations += usize::from(before.phase == "activated" && after.phase == "idle");
        assert_eq!(after.roots.len(), if after.phase == "idle" { 1 } else { 2 });
        // The workload, with what it knew before the crash, renews and learns the roots of now.
        let channel = api.dial(Some(&identity), roots.clone()).await;
        let renewed = issue(channel.expect("trusted"), None).await;
        identity = renewed.expect("renewed").identity;
        roots = api.roots();
    }
    assert!(rotations > 0, "no change of roots was completed");
}
