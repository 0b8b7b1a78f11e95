//! What callers may do with repositories and tokens, beyond the table of [`super::surface_tests`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use axum::{Router, body::Body, http::Request};
use http_body_util::BodyExt;
use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::real::RealDisk,
    engine::{Engine, LogKind, Options, Parts},
    store::{ObjectStore, memory::MemoryStore},
};
use reprise_projections::Projections;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::hub::{Caller, Hub, HubParts, Limits, Secret};

const NOW_MS: u64 = 1_773_662_400_000;
pub(super) const OPERATOR: &str = "the-operator";

pub(super) struct Served {
    pub(super) router: Router,
    hub: Arc<Hub>,
    clock: Arc<ManualClock>,
    _data: tempfile::TempDir,
}

pub(super) fn served() -> Served {
    served_over(Arc::new(MemoryStore::new()), LogKind::Local)
}

pub(super) fn served_over(store: Arc<dyn ObjectStore>, log: LogKind) -> Served {
    let data = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let parts = Parts {
        disk: Arc::new(RealDisk::new(data.path().to_owned())),
        store,
        clock: clock.clone(),
        random: Arc::new(SeededRandom::new(7)),
    };
    let (engine, _) = Engine::open(parts, Options { log, ..Options::new("a test") }).unwrap();
    let options = reprise_projections::Options { dir: None, cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };
    let projections = Projections::open(engine.clone(), options).unwrap();
    let hub = Hub::new(HubParts {
        engine,
        projections,
        limits: Limits::default(),
        spool_dir: data.path().to_owned(),
        create_on_push: None,
        operator: Secret::new(OPERATOR),
    });
    let hub = Arc::new(hub.shared(log != LogKind::Local));
    Served { router: crate::http::router(Arc::clone(&hub)), hub, clock, _data: data }
}

impl Served {
    pub(super) async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(super) async fn status(&self, method: &str, path: &str, token: Option<&str>) -> u16 {
        self.ask(method, path, token, None).await.0
    }

    pub(super) async fn create(&self, owner: &str, slug: &str, visibility: &str) {
        let body = json!({"owner": owner, "slug": slug, "visibility": visibility});
        assert_eq!(self.ask("POST", "/api/v1/repos", Some(OPERATOR), Some(body)).await.0, 201);
    }

    pub(super) async fn token(&self, fields: Value) -> (String, String) {
        let (status, made) = self.ask("POST", "/api/v1/tokens", Some(OPERATOR), Some(fields)).await;
        assert_eq!(status, 201, "{made}");
        (made["token"].as_str().unwrap().to_owned(), made["token_id"].as_str().unwrap().to_owned())
    }
}

/// The callers of the table, in its columns' order.
pub(super) async fn callers(served: &Served) -> Vec<(&'static str, Option<String>)> {
    let token = async |fields: Value| Some(served.token(fields).await.0);
    let revoked = served.token(json!({"owner": "alice", "scope": "admin"})).await;
    assert_eq!(served.status("DELETE", &format!("/api/v1/tokens/{}", revoked.1), Some(OPERATOR)).await, 200);
    let expired = token(json!({"owner": "alice", "scope": "admin", "expires_ms": 5})).await;
    served.clock.set(NOW_MS + 5);
    vec![
        ("anonymous", None),
        ("unknown", Some("rpt_nobody".to_owned())),
        ("revoked", Some(revoked.0)),
        ("expired", expired),
        ("stranger", token(json!({"owner": "bob", "scope": "admin"})).await),
        ("elsewhere", token(json!({"owner": "alice", "repo": "another", "scope": "admin"})).await),
        ("reader", token(json!({"owner": "alice", "scope": "read"})).await),
        ("writer", token(json!({"owner": "alice", "scope": "write"})).await),
        ("admin", token(json!({"owner": "alice", "scope": "admin"})).await),
        ("operator", Some(OPERATOR.to_owned())),
    ]
}

#[tokio::test]
async fn a_listing_holds_only_what_the_caller_may_read() {
    let served = served();
    for (owner, slug, visibility) in
        [("alice", "open", "public"), ("alice", "closed", "private"), ("bob", "own", "private")]
    {
        served.create(owner, slug, visibility).await;
    }
    let (reader, _) = served.token(json!({"owner": "alice", "scope": "read"})).await;
    let names = async |token: Option<&str>| {
        let (_, listed) = served.ask("GET", "/api/v1/repos", token, None).await;
        let name = |repo: &Value| repo["slug"].as_str().unwrap().to_owned();
        listed["repos"].as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, ["open"]);
    assert_eq!(names(Some(&reader)).await, ["closed", "open"]);
    assert_eq!(names(Some(OPERATOR)).await, ["closed", "open", "own"]);
}

#[tokio::test]
async fn a_name_is_taken_once_and_free_again_after_a_deletion() {
    let served = served();
    served.create("alice", "etude", "public").await;
    let again = json!({"owner": "alice", "slug": "etude"});
    assert_eq!(served.ask("POST", "/api/v1/repos", Some(OPERATOR), Some(again)).await.0, 409);
    assert_eq!(served.status("DELETE", "/api/v1/repos/alice/etude", Some(OPERATOR)).await, 200);
    assert_eq!(served.status("GET", "/api/v1/repos/alice/etude", Some(OPERATOR)).await, 404);
    served.create("alice", "etude", "public").await;
}

#[tokio::test]
async fn names_outside_the_grammar_and_the_servers_own_are_refused() {
    let served = served();
    for (owner, slug) in [("api", "x"), ("Alice", "x"), ("alice", ""), ("alice", "a/b"), ("..", "x"), ("metrics", "x")]
    {
        let body = json!({"owner": owner, "slug": slug});
        let (status, _) = served.ask("POST", "/api/v1/repos", Some(OPERATOR), Some(body)).await;
        assert_eq!(status, 422, "{owner}/{slug}");
    }
}

#[tokio::test]
async fn an_admin_token_issues_tokens_for_its_owner_only_and_no_weaker_one_does() {
    let served = served();
    let (admin, _) = served.token(json!({"owner": "alice", "scope": "admin"})).await;
    let (one_repo, _) = served.token(json!({"owner": "alice", "repo": "etude", "scope": "admin"})).await;
    let (writer, _) = served.token(json!({"owner": "alice", "scope": "write"})).await;
    let issue = async |token: &str, body: Value| served.ask("POST", "/api/v1/tokens", Some(token), Some(body)).await.0;
    assert_eq!(issue(&admin, json!({"owner": "alice"})).await, 201);
    assert_eq!(issue(&admin, json!({"owner": "bob"})).await, 403);
    assert_eq!(issue(&one_repo, json!({"owner": "alice"})).await, 403, "more than it has");
    assert_eq!(issue(&one_repo, json!({"owner": "alice", "repo": "etude"})).await, 201);
    assert_eq!(issue(&writer, json!({"owner": "alice", "scope": "read"})).await, 403);
}

#[tokio::test]
async fn no_answer_but_the_first_holds_a_secret_and_no_event_does() {
    let served = served();
    let (secret, _) = served.token(json!({"owner": "alice"})).await;
    let (_, listed) = served.ask("GET", "/api/v1/tokens", Some(OPERATOR), None).await;
    assert!(!listed.to_string().contains(&secret));
    let group =
        served.hub.engine.follow(reprise_engine::id::Position(1)).unwrap().next(std::time::Duration::ZERO).unwrap();
    assert!(!format!("{group:?}").contains(&secret));
}

#[tokio::test]
async fn probes_need_no_token_and_say_how_it_is() {
    let served = served();
    assert_eq!(served.ask("GET", "/health", None, None).await.0, 200);
    let (status, ready) = served.ask("GET", "/ready", None, None).await;
    assert_eq!((status, &ready["ready"]), (200, &Value::Bool(true)), "{ready}");
    assert_eq!(served.status("GET", "/metrics", None).await, 200);
    assert_eq!(served.status("GET", "/nothing", None).await, 404);
    assert_eq!(served.status("POST", "/health", None).await, 405);
}

#[tokio::test]
async fn bodies_that_are_not_what_is_asked_for_are_refused_in_words() {
    let served = served();
    let send = async |body: String| {
        let request = Request::builder()
            .method("POST")
            .uri("/api/v1/repos")
            .header("authorization", format!("Bearer {OPERATOR}"));
        served.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(send("{".to_owned()).await, 400);
    assert_eq!(send("{\"owner\":1}".to_owned()).await, 422);
    assert_eq!(send(format!("\"{}\"", "x".repeat(5 << 20))).await, 413);
}

#[tokio::test]
async fn a_token_ends_no_later_than_the_one_that_issues_it() {
    let served = served();
    let (admin, _) = served.token(json!({"owner": "alice", "scope": "admin", "expires_ms": 60_000})).await;
    let issue = async |expires: Option<u64>| {
        let mut body = json!({"owner": "alice", "scope": "read"});
        if let Some(expires) = expires {
            body["expires_ms"] = json!(expires);
        }
        served.ask("POST", "/api/v1/tokens", Some(&admin), Some(body)).await
    };
    assert_eq!(issue(None).await.1["expires_at"], json!("2026-03-16T12:01:00Z"), "with its issuer");
    assert_eq!(issue(Some(30_000)).await.1["expires_at"], json!("2026-03-16T12:00:30Z"));
    let (status, refused) = issue(Some(61_000)).await;
    assert_eq!(status, 422, "{refused}");
}

#[tokio::test]
async fn a_revocation_that_was_answered_counts_on_views_that_do_not_show_it() {
    let served = served();
    let (secret, id) = served.token(json!({"owner": "alice"})).await;
    let Ok(Caller::Token(record)) = served.hub.caller_of(Secret::new(secret.as_str())).await else { panic!("valid") };
    let before = served.hub.projections.view();
    assert!(served.hub.valid_token(&before, record.hash).is_ok());
    assert_eq!(served.status("DELETE", &format!("/api/v1/tokens/{id}"), Some(OPERATOR)).await, 200);
    assert!(served.hub.valid_token(&before, record.hash).is_err(), "the view is older than the revocation");
}

#[tokio::test]
async fn what_does_not_decode_in_a_path_or_query_is_400_in_words() {
    let served = served();
    for path in ["/api/v1/repos?after=nothing", "/api/v1/log?from=x", "/api/v1/repos?limit=-1", "/alice/%ff/refs"] {
        let (status, body) = served.ask("GET", path, Some(OPERATOR), None).await;
        assert_eq!(status, 400, "{path}: {body}");
        assert!(body["detail"].is_string(), "{path}: {body}");
    }
}
