//! Candidate heads of a repository, and making one of them a branch.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{
        admin::operator_only,
        extract::{JsonBody, Path},
    },
    hub::{
        Caller, Hub, HubError,
        adopt::{Adopted, Adoption},
    },
};

/// `GET /api/v1/repos/{owner}/{slug}/heads`: commits that nothing of their own branch was built on, newest first.
pub async fn heads(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug)): Path<(String, String)>,
) -> Result<Json<Value>, HubError> {
    operator_only(&caller)?;
    Ok(Json(hub.candidate_heads(&caller, &owner, &slug).await?.json()))
}

/// What is to become a branch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptBody {
    commit: String,
    branch: String,
    #[serde(default)]
    incomplete: bool,
    #[serde(default)]
    force: bool,
}

/// `POST /api/v1/repos/{owner}/{slug}/adopt`
pub async fn adopt(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug)): Path<(String, String)>,
    JsonBody(body): JsonBody<AdoptBody>,
) -> Result<Json<Value>, HubError> {
    operator_only(&caller)?;
    let AdoptBody { commit, branch, incomplete, force } = body;
    let adoption = Adoption { commit: commit.parse()?, branch: branch.clone(), incomplete, force };
    let Adopted { old, commits, missing, position } = hub.adopt(&caller, (&owner, &slug), adoption).await?;
    let shown = missing.objects.iter().take(hub.limits.missing_listed_max);
    Ok(Json(json!({
        "owner": owner,
        "slug": slug,
        "branch": branch,
        "commit": commit,
        "old": old.map(|old| old.to_string()),
        "commits": commits,
        "missing": missing.objects.len(),
        "missing_listed": shown.map(|(kind, id)| format!("{kind} {id}")).collect::<Vec<_>>(),
        "position": position.0,
    })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::{Request, StatusCode};
    use serde_json::json;

    use crate::{
        http::mwp_tests::{Rig, two_commits},
        hub::Limits,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_repository_with_as_many_branches_as_it_may_have_adopts_no_other_and_moves_those() {
        let rig = Rig::new(Limits { refs_per_repo_max: 1, ..Limits::default() }).await;
        let (history, first, _) = two_commits();
        rig.push_all("a", &history, "main").await;
        let adopt = async |branch: &str| {
            let body = json!({"commit": first, "branch": branch, "force": true}).to_string();
            let request = Request::post("/api/v1/repos/alice/a/adopt")
                .header("content-type", "application/json")
                .header("authorization", "Bearer operator");
            rig.send(request.body(body.into()).unwrap()).await
        };
        let refused = adopt("other").await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", refused.text());
        assert!(refused.text().contains("the limit is 1"), "{}", refused.text());
        assert_eq!(adopt("main").await.status, StatusCode::OK);
    }
}
