//! Where the mesh's defaults are strict, no policy is without somebody who answers for it.

use mesh_proto::admin::ApplyRequest;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use tonic::Code;

use super::support::ControlApi;

const STRICT: &str = "---\napiVersion: postern.dev/v1alpha1\nkind: MeshDefaults\n\
     metadata: {name: default, namespace: postern-system}\nspec: {strictPolicies: true}\n";

fn policy(name: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: demo, annotations: {{{annotations}}}}}\nspec: {{action: DENY}}\n"
    )
}

#[tokio::test]
async fn strict_defaults_refuse_policies_without_owner_whole_and_whichever_came_first() {
    let api = ControlApi::start(&[]);
    let admin = AdminServiceClient::new(api.operator().await);
    let apply = async |manifest: &str, dry_run| {
        let request = ApplyRequest {
            manifest: manifest.into(),
            dry_run,
            ..ApplyRequest::default()
        };
        admin.clone().apply(request).await
    };
    apply(&policy("old", ""), false).await.expect("not strict");
    let owned = policy("old", "postern.dev/owner: shop");
    let both = format!("{}{}", policy("a", ""), policy("b", ""));
    for (manifest, named, more) in [
        (STRICT.to_owned(), "demo/old", ""),
        (format!("{STRICT}{both}"), "demo/a", ", and in 2 more"),
        (
            format!("{STRICT}{owned}{both}"),
            "demo/a",
            ", and in 1 more",
        ),
    ] {
        for dry_run in [true, false] {
            let refused = apply(&manifest, dry_run).await.expect_err("ownerless");
            assert_eq!(refused.code(), Code::InvalidArgument);
            let expected = format!("AuthorizationPolicy {named}: spec.owner is missing{more};");
            let said = refused.message();
            assert!(said.starts_with(&expected), "dry run {dry_run}: {said}");
        }
    }
    apply(&format!("{STRICT}{owned}"), false)
        .await
        .expect("somebody answers for it");
    // It holds for what comes later, too.
    let refused = apply(&policy("late", ""), false).await;
    assert_eq!(
        refused.expect_err("ownerless").code(),
        Code::InvalidArgument
    );
    let loose = STRICT.replace("true", "false");
    apply(&format!("{loose}{}", policy("late", "")), false)
        .await
        .expect("no longer strict");
}
