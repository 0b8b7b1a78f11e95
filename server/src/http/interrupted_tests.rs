//! Requests that do not go as planned: a client that goes away at any moment, a right that ends while a body arrives, a
//! refusal after the body. Nothing is half done, nothing that is still in use is given away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body as HttpBody,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reprise_engine::{
    engine::Proposal,
    event::{Scope, Visibility},
    store::ObjectStore,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::mwp_tests::{History, Rig, sha, two_commits};
use crate::{
    hub::{Caller, Hub, HubError, Limits, body::Body, packing::Packing, tokens::NewToken},
    wire::{requests, transcode},
};

/// One place of each kind, and nobody waits long for it: a place that is not given back shows at once.
fn narrow() -> Limits {
    let waiting_time_max = Duration::from_millis(300);
    Limits { pushes_max: 1, object_uploads_max: 1, small_uploads_per_place: 1, waiting_time_max, ..Limits::default() }
}

fn request(path: &str, token: &str, body: HttpBody) -> Request<HttpBody> {
    let request = Request::post(path).header("content-type", "application/x-msgpack");
    request.header("authorization", format!("Bearer {token}")).body(body).unwrap()
}

/// A body that arrives in several pieces, with a pause before each.
fn in_pieces(body: &[u8]) -> HttpBody {
    let pieces: Vec<Bytes> = body.chunks(body.len().div_ceil(4).max(1)).map(Bytes::copy_from_slice).collect();
    HttpBody::from_stream(stream::iter(pieces).then(|piece| async {
        tokio::task::yield_now().await;
        Ok::<_, std::io::Error>(piece)
    }))
}

/// Polls a future at most `polls` times and then drops it, as a connection does whose client went away.
async fn dropped_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    struct Limited<'a, F> {
        future: Pin<&'a mut F>,
        left: usize,
    }
    impl<F: Future> Future for Limited<'_, F> {
        type Output = Option<F::Output>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            match self.future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        }
    }
    Limited { future: pin!(future), left: polls }.await
}

/// Waits until the work of clients that are gone is done.
async fn at_rest(hub: &Hub) {
    while !hub.tasks.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Every object that the store holds is named by the log: nothing was left behind.
async fn packs_are_named(rig: &Rig) {
    for key in rig.store.list("").unwrap() {
        let id = key.as_str().rsplit('/').next().unwrap().trim_end_matches(".pack").to_owned();
        let end = rig.hub.engine.durable().position;
        let view = rig.hub.view_at(end).await.unwrap();
        assert!(view.storage_uri(id.parse().unwrap()).unwrap().is_some(), "no event names {key}");
    }
}

async fn dropped_at_every_await(path: &str, body: impl Fn(&History) -> Vec<u8>, before: impl AsyncFn(&Rig, &str)) {
    let rig = Rig::new(narrow()).await;
    let (history, _, second) = two_commits();
    for polls in 1.. {
        let repo = format!("r{polls}");
        before(&rig, &repo).await;
        let sent = request(&format!("/alice/{repo}/{path}"), "operator", in_pieces(&body(&history)));
        let answered = dropped_after(polls, rig.router.clone().oneshot(sent)).await;
        let answered = answered.map(|answer| answer.unwrap().status());
        at_rest(&rig.hub).await;
        packs_are_named(&rig).await;
        // Whatever became of it: the same again is taken, and the clone is whole.
        rig.push_all(&repo, &history, "main").await;
        history.check_complete(&rig.fetch(&repo, &[&second], &[]).await.fetched());
        if let Some(status) = answered {
            assert_eq!(status, StatusCode::OK);
            assert!(polls > 4, "{polls} polls: nothing was interrupted");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_client_goes_away_at_any_await_is_wholly_there_or_not_at_all() {
    dropped_at_every_await("push/objects", History::objects_body, async |_, _| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_client_goes_away_at_any_await_is_wholly_there_or_not_at_all() {
    let objects_first = async |rig: &Rig, repo: &str| {
        let reply = rig.post(&format!("/alice/{repo}/push/objects"), two_commits().0.objects_body()).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    };
    dropped_at_every_await("push", |history| history.push_body("main", false), objects_first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_stay_when_whoever_proposed_them_goes_away() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ..) = two_commits();
    let body = Body::Memory(history.objects_body().into());
    let (repo, _) = rig.hub.readable(&Caller::Operator, "alice", "a").await.unwrap();
    let push = rig.hub.random_push_id().unwrap();
    let mut packing = Packing::new(&rig.hub, repo.row.record.repo, push);
    for object in requests::objects(body.source(), &rig.hub.push_caps()).unwrap() {
        packing.blob(&body, &object).unwrap();
    }
    let (events, stored) = packing.finish().unwrap();
    let conditions = vec![repo.is_there()];
    let proposal = Proposal { push, fingerprint: 0, actor: "a test".to_owned(), conditions, events };
    let before = rig.hub.engine.durable().position;
    drop(dropped_after(1, rig.hub.append_packs(proposal, stored)).await);
    while rig.hub.engine.durable().position == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    packs_are_named(&rig).await;
    assert_eq!(rig.store.list("").unwrap().len(), 1, "the pack that the log names");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_place_only_when_its_work_is_done() {
    let rig = Rig::new(narrow()).await;
    let (history, ..) = two_commits();
    rig.post("/alice/a/push/objects", history.objects_body()).await;
    rig.post("/alice/b/push/objects", history.objects_body()).await;
    let (repo, _) = rig.hub.readable(&Caller::Operator, "alice", "a").await.unwrap();
    let turn = rig.hub.push_turns.of(repo.row.record.repo);
    let held = turn.lock().await;
    let first = rig.post("/alice/a/push", history.push_body("main", false));
    assert!(tokio::time::timeout(Duration::from_millis(100), first).await.is_err(), "it waits for its turn");
    let second = rig.post("/alice/b/push", history.push_body("main", false)).await;
    assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE, "{}", second.text());
    drop(held);
    at_rest(&rig.hub).await;
    let again = rig.post("/alice/b/push", history.push_body("main", false)).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_holds_no_place_while_his_body_is_drained() {
    let rig = Rig::new(narrow()).await;
    let endless = HttpBody::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let anonymous = Request::post("/alice/a/push").body(endless).unwrap();
    let refused = rig.router.clone().oneshot(anonymous).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let (history, ..) = two_commits();
    rig.push_all("a", &history, "main").await;
    drop(refused);
}

/// A body in two halves; between them the token ends.
fn revoked_half_way(hub: &Arc<Hub>, token: reprise_engine::id::TokenId, body: &[u8]) -> HttpBody {
    let (one, two) = body.split_at(body.len() / 2);
    let (one, two, hub) = (Bytes::copy_from_slice(one), Bytes::copy_from_slice(two), Arc::clone(hub));
    let second = async move {
        hub.revoke_token(&Caller::Operator, token).await.unwrap();
        Ok(two)
    };
    HttpBody::from_stream(stream::once(async { Ok::<_, HubError>(one) }).chain(stream::once(second)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_while_the_body_arrives_does_nothing_any_more() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ..) = two_commits();
    let json = |value: Value| {
        let mut out = Vec::new();
        transcode::append(value.to_string().as_bytes(), &mut out).unwrap();
        out
    };
    let tag = json!({"tags": [{"tag": "v1", "commit_id": sha(b"x"), "tag_id": "t", "created_at": "now"}]});
    let bodies = [
        ("push/objects", history.objects_body()),
        ("push", history.push_body("main", false)),
        ("releases", json(json!({"tag": "v1"}))),
        ("tags", json(tag)),
        ("fetch", json(json!({"want": [], "have": []}))),
    ];
    for (path, body) in bodies {
        let new = NewToken { owner: "alice".to_owned(), repo: None, scope: Scope::Write, expires_ms: None };
        let (record, secret) = rig.hub.issue_token(&Caller::Operator, new).await.unwrap();
        let end = rig.hub.engine.durable().position;
        let body = revoked_half_way(&rig.hub, record.token, &body);
        let sent = request(&format!("/alice/a/{path}"), secret.expose(), body);
        let reply = rig.send(sent).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}: {}", reply.text());
        assert_eq!(rig.hub.engine.durable().position.0, end.0 + 1, "{path}: only the revocation was appended");
    }
    assert!(rig.store.list("").unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_that_is_refused_creates_no_repository() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ..) = two_commits();
    let mut wrong = history.objects_body();
    let at = wrong.windows(3).position(|window| window == b"one").unwrap();
    wrong[at] ^= 1;
    let refusals = [
        ("push/objects", wrong, StatusCode::UNPROCESSABLE_ENTITY),
        ("push/objects", b"\xc1".to_vec(), StatusCode::BAD_REQUEST),
        ("push", b"\x81".to_vec(), StatusCode::BAD_REQUEST),
        // Snapshots that name objects which were never sent.
        ("push", history.push_body("main", false), StatusCode::OK),
    ];
    for (path, body, status) in refusals {
        let end = rig.hub.engine.durable();
        let reply = rig.post(&format!("/alice/new/{path}"), body).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        if status == StatusCode::OK {
            assert_eq!(reply.map()["ok"], json!(false));
        }
        assert_eq!(rig.get("/alice/new/refs").await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(rig.hub.engine.durable(), end, "{path}: nothing was appended");
    }
    rig.push_all("new", &history, "main").await;
    let (repo, _) = rig.hub.readable(&Caller::Operator, "alice", "new").await.unwrap();
    assert_eq!((repo.row.record.default_branch.as_str(), repo.row.record.visibility), ("main", Visibility::Public));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_race_to_create_a_repository_all_arrive_in_it() {
    let rig = Arc::new(Rig::new(Limits::default()).await);
    let uploads = (0..4u8).map(|number| {
        let mut history = History::default();
        history.commit(&[], &[("file", &[number; 9])], "one");
        let rig = Arc::clone(&rig);
        tokio::spawn(async move { rig.post("/alice/raced/push/objects", history.objects_body()).await.map() })
    });
    for answer in futures_util::future::join_all(uploads).await {
        assert_eq!(answer.unwrap()["stored"], json!(1));
    }
    let ids: Vec<String> = (0..4u8).map(|number| sha(&[number; 9])).collect();
    let mut body = Vec::new();
    transcode::append(json!({"object_ids": ids}).to_string().as_bytes(), &mut body).unwrap();
    assert_eq!(rig.post("/alice/raced/filter-objects", body).await.map()["missing"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bundle_without_commits_brings_is_checked_and_stored_like_any() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ..) = two_commits();
    rig.push_all("a", &history, "main").await;
    let bundle = |content: &[u8]| {
        let mut out = Vec::new();
        let object = json!({"object_id": sha(b"late"), "content": String::from_utf8_lossy(content)});
        let body = json!({"bundle": {"commits": [], "objects": [object]}, "branch": "main", "force": false});
        transcode::append(body.to_string().as_bytes(), &mut out).unwrap();
        // Contents are bin on the wire: str 4 becomes bin 8.
        let at = out.windows(content.len() + 1).position(|window| window[1..] == *content && window[0] == 0xa4);
        let at = at.unwrap();
        out.splice(at..=at, [0xc4, 4]);
        out
    };
    let wrong = rig.post("/alice/a/push", bundle(b"liar")).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", wrong.text());
    let right = rig.post("/alice/a/push", bundle(b"late")).await;
    assert_eq!(right.map()["ok"], json!(true));
    let stored = rig.get(&format!("/alice/a/objects/{}", sha(b"late"))).await;
    assert_eq!(stored.text(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_where_the_branch_is_now() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, _, second) = two_commits();
    rig.post("/alice/a/push/objects", history.objects_body()).await;
    let body = history.push_body("main", false);
    rig.post_keyed("/alice/a/push", body.clone(), Some("k")).await;
    let third = history.commit(&[&second], &[("a.txt", b"two")], "third");
    rig.push_all("a", &history, "main").await;
    let repeated = rig.post_keyed("/alice/a/push", body, Some("k")).await.map();
    assert_eq!((&repeated["ok"], &repeated["remote_head"]), (&json!(true), &json!(third)), "{repeated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_request_without_a_token_is_refused_before_its_body_is_read() {
    let rig = Rig::new(Limits::default()).await;
    for path in ["/api/v1/repos", "/api/v1/tokens"] {
        let endless = HttpBody::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let anonymous = Request::post(path).header("content-type", "application/json").body(endless).unwrap();
        assert_eq!(rig.send(anonymous).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let large = HttpBody::from(vec![b' '; 70_000]);
    let reply = rig.send(request("/api/v1/repos", "operator", large)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(reply.text().contains("65536"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_releases_that_the_client_could_not_take_is_413_and_a_large_release_too() {
    let rig = Rig::new(Limits { response_bytes_max: 5_000, release_bytes_max: 4_000, ..Limits::default() }).await;
    let release = |tag: &str, bytes: usize| {
        let mut out = Vec::new();
        let record = json!({"tag": tag, "body": "x".repeat(bytes), "channel": "stable"});
        transcode::append(record.to_string().as_bytes(), &mut out).unwrap();
        out
    };
    let large = rig.post("/alice/a/releases", release("v0", 4_000)).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.text().contains("4000"), "{}", large.text());
    for tag in ["v1", "v2"] {
        assert_eq!(rig.post("/alice/a/releases", release(tag, 3_000)).await.status, StatusCode::OK);
        let listed = rig.get("/alice/a/releases").await;
        match tag {
            "v1" => assert_eq!(listed.map()["releases"][0]["tag"], json!("v1")),
            _ => assert!(listed.status == StatusCode::PAYLOAD_TOO_LARGE && listed.text().contains("5000")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_has_a_bounded_number_of_repositories_and_tokens() {
    // Two repositories are made with the rig.
    let rig = Rig::new(Limits { repos_per_owner_max: 3, tokens_per_owner_max: 2, ..Limits::default() }).await;
    let (history, ..) = two_commits();
    assert_eq!(rig.post("/alice/third/push/objects", history.objects_body()).await.status, StatusCode::OK);
    let refused = rig.post("/alice/fourth/push/objects", history.objects_body()).await;
    assert!(refused.status == StatusCode::PAYLOAD_TOO_LARGE && refused.text().contains('3'), "{}", refused.text());
    let token =
        |owner: &str, expires_ms| NewToken { owner: owner.to_owned(), repo: None, scope: Scope::Read, expires_ms };
    let issue = async |new| rig.hub.issue_token(&Caller::Operator, new).await;
    // One that has ended counts no more.
    issue(token("alice", Some(1))).await.unwrap();
    let (first, _) = issue(token("alice", None)).await.unwrap();
    issue(token("alice", None)).await.unwrap();
    assert!(matches!(issue(token("alice", None)).await, Err(HubError::TooLarge(text)) if text.contains('2')));
    issue(token("bob", None)).await.unwrap();
    rig.hub.revoke_token(&Caller::Operator, first.token).await.unwrap();
    issue(token("alice", None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_records_of_several_pushes_are_in_memory_one_at_a_time() {
    let rig = Rig::new(Limits::default()).await;
    let mut large = History::default();
    let files: Vec<(String, &[u8])> =
        (0..12_000).map(|n| (format!("a/rather/long/path/{n:06}"), &b"same"[..])).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, content)| (path.as_str(), *content)).collect();
    large.commit(&[], &files, "many");
    rig.post("/alice/b/push/objects", large.objects_body()).await;
    let body = large.push_body("main", false);
    assert!(body.len() > 1 << 20, "{} bytes", body.len());
    let held = rig.hub.large_records.lock().unwrap();
    let (small, ..) = two_commits();
    let waiting = async {
        rig.push_all("a", &small, "main").await;
        let waits = rig.post("/alice/b/push", body.clone());
        assert!(tokio::time::timeout(Duration::from_millis(300), waits).await.is_err(), "another has its turn");
    };
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(waiting));
    drop(held);
    at_rest(&rig.hub).await;
    assert_eq!(rig.post("/alice/b/push", body).await.map()["ok"], json!(true));
}
