//! The whole surface: every endpoint × every caller × a public, a private, a deleted and a missing repository.
//!
//! Invariants: the routes are read from the source that makes them, so an endpoint without a row fails; who may not see a
//! repository gets the same bytes, headers and length for one that is private, deleted or was never there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use reprise_engine::engine::{LogKind, SegmentRule};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    access_tests::{OPERATOR, Served, callers, served, served_over},
    fleet_tests::Bucket,
};

/// Who may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Readers,
    Writers,
    Admins,
    /// Whoever has the operator's secret, whatever the repository.
    Operator,
    /// Whoever has the ticket: what anybody else gets is the same about every repository.
    Ticket,
}

/// What each of the ten callers gets of a repository that is …
struct Rule {
    public: [u16; 10],
    private: [u16; 10],
    /// … deleted, or was never there.
    none: [u16; 10],
}

/// Stands for what those get who may; each row says what that is.
const OK: u16 = 0;

#[rustfmt::skip]
impl Who {
    fn rule(self) -> Rule {
        match self {
            //         anonymous unknown revoked expired stranger elsewhere reader writer admin operator
            Who::Readers => Rule {
                public:  [OK,    401,    401,    401,    OK,      OK,       OK,    OK,    OK,   OK],
                private: [404,   401,    401,    401,    404,     404,      OK,    OK,    OK,   OK],
                none:    [404,   401,    401,    401,    404,     404,      404,   404,   404,  404],
            },
            Who::Writers => Rule {
                public:  [401,   401,    401,    401,    403,     403,      403,   OK,    OK,   OK],
                private: [401,   401,    401,    401,    404,     404,      403,   OK,    OK,   OK],
                none:    [401,   401,    401,    401,    404,     404,      404,   404,   404,  404],
            },
            Who::Ticket => Rule {
                public:  [404,   401,    401,    401,    404,     404,      404,   404,   404,  404],
                private: [404,   401,    401,    401,    404,     404,      404,   404,   404,  404],
                none:    [404,   401,    401,    401,    404,     404,      404,   404,   404,  404],
            },
            Who::Operator => Rule {
                public:  [401,   401,    401,    401,    403,     403,      403,   403,   403,  OK],
                private: [401,   401,    401,    401,    403,     403,      403,   403,   403,  OK],
                none:    [401,   401,    401,    401,    403,     403,      403,   403,   403,  404],
            },
            Who::Admins => Rule {
                public:  [401,   401,    401,    401,    403,     403,      403,   403,   OK,   OK],
                private: [401,   401,    401,    401,    404,     404,      403,   403,   OK,   OK],
                none:    [401,   401,    401,    401,    404,     404,      404,   404,   404,  404],
            },
        }
    }
}

/// Endpoints of one repository: method, route, who may, what those get.
#[rustfmt::skip]
const OF_REPOSITORIES: [(&str, &str, Who, u16); 25] = [
    ("GET",    "/{owner}/{slug}/refs",                         Who::Readers, 200),
    ("POST",   "/{owner}/{slug}/filter-objects",               Who::Readers, 200),
    ("POST",   "/{owner}/{slug}/presign",                      Who::Readers, 200),
    ("POST",   "/{owner}/{slug}/negotiate",                    Who::Readers, 200),
    ("POST",   "/{owner}/{slug}/fetch",                        Who::Readers, 200),
    ("POST",   "/{owner}/{slug}/fetch/mpack",                  Who::Readers, 200),
    ("GET",    "/{owner}/{slug}/objects/{id}",                 Who::Readers, 200),
    ("GET",    "/{owner}/{slug}/releases",                     Who::Readers, 200),
    ("POST",   "/{owner}/{slug}/push/objects",                 Who::Writers, 200),
    ("POST",   "/{owner}/{slug}/push",                         Who::Writers, 200),
    ("POST",   "/{owner}/{slug}/fetch/presign",                Who::Readers, 200),
    ("GET",    "/{owner}/{slug}/mpack/{id}",                   Who::Ticket,  404),
    ("PUT",    "/{owner}/{slug}/objects/{id}",                 Who::Ticket,  404),
    ("POST",   "/{owner}/{slug}/push/mpack-presign",           Who::Writers, 200),
    // Nothing says where the branch is to be: 422 is behind the door.
    ("POST",   "/{owner}/{slug}/push/unpack-mpack",            Who::Writers, 422),
    // Without its ticket it is not there, for nobody.
    ("PUT",    "/{owner}/{slug}/mpack/{id}",                   Who::Ticket,  404),
    // The body is empty: 422 is behind the door.
    ("POST",   "/{owner}/{slug}/releases",                     Who::Writers, 422),
    // There is no such release: said to writers only, and in other words.
    ("DELETE", "/{owner}/{slug}/releases/{tag}",               Who::Writers, 404),
    ("POST",   "/{owner}/{slug}/tags",                         Who::Writers, 200),
    ("GET",    "/api/v1/repos/{owner}/{slug}",                 Who::Readers, 200),
    ("GET",    "/api/v1/repos/{owner}/{slug}/locate/{object}", Who::Readers, 200),
    ("GET",    "/api/v1/repos/{owner}/{slug}/heads",           Who::Operator, 200),
    // There is no such commit.
    ("POST",   "/api/v1/repos/{owner}/{slug}/adopt",           Who::Operator, 404),
    ("PATCH",  "/api/v1/repos/{owner}/{slug}",                 Who::Admins,  200),
    ("DELETE", "/api/v1/repos/{owner}/{slug}",                 Who::Admins,  200),
];

/// Endpoints of the server.
#[rustfmt::skip]
const OF_THE_SERVER: [(&str, &str, [u16; 10]); 19] = [
    // Probes ask nobody who he is.
    //                                       anonymous unknown revoked expired stranger elsewhere reader writer admin operator
    ("GET",    "/health",                        [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET",    "/ready",                         [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET",    "/metrics",                       [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/v1/repos",                  [200, 401, 401, 401, 200, 200, 200, 200, 200, 200]),
    ("POST",   "/api/v1/repos",                  [401, 401, 401, 401, 403, 403, 403, 403, 201, 201]),
    ("GET",    "/api/v1/tokens",                 [401, 401, 401, 401, 200, 200, 200, 200, 200, 200]),
    ("POST",   "/api/v1/tokens",                 [401, 401, 401, 401, 403, 403, 403, 403, 201, 201]),
    ("DELETE", "/api/v1/tokens/{token}",         [401, 401, 401, 401, 404, 404, 404, 404, 200, 200]),
    ("GET",    "/api/v1/status",                 [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET",    "/api/v1/log",                    [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST",   "/api/v1/verify",                 [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST",   "/api/v1/scrub",                  [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST",   "/api/v1/sweep",                  [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET",    "/api/v1/projections",            [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST",   "/api/v1/projections/rebuild",    [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST",   "/api/v1/projections/compare",    [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET",    "/api/v1/projections/digest",     [401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET",    "/api/v1/projections/dump/{name}",[401, 401, 401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET",    "/nothing/is/here/at/all",        [404, 404, 404, 404, 404, 404, 404, 404, 404, 404]),
];

/// A blob of the public and of the private repository, and its id.
const HELD: &[u8] = b"held";
const HELD_ID: &str = "c20dea4d876b5b8fb0a1814b43017030cea6d4ac30b2d9ae71b404d2faba49b5";

/// What an endpoint is asked with.
fn body(method: &str, route: &str, number: usize) -> Option<Value> {
    let ends = |end: &str| route.ends_with(end);
    Some(match method {
        "GET" | "DELETE" => return None,
        "PATCH" => json!({}),
        _ if ends("/filter-objects") || (ends("/presign") && !ends("/fetch/presign")) => json!({"object_ids": []}),
        _ if ends("/negotiate") || ends("/fetch") || ends("/fetch/mpack") || ends("/fetch/presign") => {
            json!({"want": [], "have": []})
        }
        _ if ends("/push/objects") => json!({"objects": []}),
        _ if ends("/push") => json!({"bundle": {"commits": [], "snapshots": [], "objects": []}, "branch": "main"}),
        _ if ends("/push/mpack-presign") => json!({"bytes": 1, "sha256": HELD_ID}),
        _ if ends("/push/unpack-mpack") => json!({"uploads": [], "branch": "main"}),
        _ if ends("/releases") => json!({}),
        _ if ends("/adopt") => json!({"commit": HELD_ID, "branch": "main"}),
        _ if ends("/tags") => json!({"tags": []}),
        _ if route == "/api/v1/repos" => json!({"owner": "alice", "slug": format!("made-{number}")}),
        _ if route == "/api/v1/tokens" => json!({"owner": "alice", "scope": "read"}),
        _ => return None,
    })
}

fn path_of(route: &str, slug: &str) -> String {
    let path =
        route.replace("{owner}", "alice").replace("{slug}", slug).replace("{tag}", "v9").replace("{name}", "refs");
    path.replace("{id}", HELD_ID).replace("{object}", HELD_ID)
}

/// All of an answer that could tell something.
#[derive(PartialEq, Eq, Debug)]
struct Answer {
    status: u16,
    headers: BTreeSet<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn detail(&self) -> String {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        value["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// The same answer about a repository called otherwise (names have equal lengths).
    fn about(self, slug: &str, as_if: &str) -> Answer {
        let renamed = |text: &str| text.replace(slug, as_if);
        let headers = self.headers.into_iter().map(|(name, value)| (name, renamed(&value))).collect();
        Answer { headers, body: renamed(&String::from_utf8_lossy(&self.body)).into_bytes(), ..self }
    }
}

async fn ask(served: &Served, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = served.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let told = |name: &str| name != "x-request-id" && name != "date";
    let headers = response.headers().iter().filter(|(name, _)| told(name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    Answer { status, headers, body }
}

/// Public, private, deleted, never there: names of equal length.
async fn with_repositories() -> Served {
    filled(served()).await
}

async fn filled(served: Served) -> Served {
    served.create("alice", "opened", "public").await;
    served.create("alice", "closed", "private").await;
    for slug in ["opened", "closed"] {
        hold(&served, slug).await;
    }
    served.create("alice", "erased", "private").await;
    assert_eq!(served.status("DELETE", "/api/v1/repos/alice/erased", Some(OPERATOR)).await, 200);
    served
}

/// Puts the blob into a repository.
async fn hold(served: &Served, slug: &str) {
    let mut body = Vec::new();
    rmp::encode::write_map_len(&mut body, 1).unwrap();
    rmp::encode::write_str(&mut body, "objects").unwrap();
    rmp::encode::write_array_len(&mut body, 1).unwrap();
    rmp::encode::write_map_len(&mut body, 2).unwrap();
    rmp::encode::write_str(&mut body, "object_id").unwrap();
    rmp::encode::write_str(&mut body, HELD_ID).unwrap();
    rmp::encode::write_str(&mut body, "content").unwrap();
    rmp::encode::write_bin(&mut body, HELD).unwrap();
    let request = Request::post(format!("/alice/{slug}/push/objects"))
        .header("authorization", format!("Bearer {OPERATOR}"))
        .header("content-type", "application/x-msgpack");
    let response = served.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
}

/// Callers who may not see a private repository.
const STRANGERS: [&str; 6] = ["anonymous", "unknown", "revoked", "expired", "stranger", "elsewhere"];
/// What has the form of a ticket, and is none.
const NO_TICKET: &str = concat!(
    "?ticket=00000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000"
);
const REPOSITORIES: [&str; 4] = ["opened", "closed", "erased", "absent"];

#[tokio::test]
async fn every_endpoint_answers_every_caller_about_every_repository_as_the_table_says() {
    let served = with_repositories().await;
    let callers = callers(&served).await;
    for (method, route, who, ok) in OF_REPOSITORIES {
        let rule = who.rule();
        for slug in REPOSITORIES {
            let expected = match slug {
                "opened" => rule.public,
                "closed" => rule.private,
                _ => rule.none,
            };
            for (number, ((caller, token), expected)) in callers.iter().zip(expected).enumerate() {
                let expected = if expected == OK { ok } else { expected };
                let asked = body(method, route, number);
                let answer = ask(&served, method, &path_of(route, slug), token.as_deref(), asked).await;
                let text = String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status, expected, "{method} {route} of {slug} as {caller}: {text}");
                assert!(answer.status < 400 || !answer.detail().is_empty(), "{method} {route} as {caller}: no words");
                if route.ends_with("/releases/{tag}")
                    && answer.status == 404
                    && number >= 7
                    && matches!(slug, "opened" | "closed")
                {
                    assert!(
                        answer.detail().contains("release"),
                        "a writer learns what is not there: {}",
                        answer.detail()
                    );
                }
                if method == "DELETE" && answer.status == 200 {
                    let visibility = if slug == "opened" { "public" } else { "private" };
                    served.create("alice", slug, visibility).await;
                    hold(&served, slug).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn every_endpoint_of_the_server_answers_every_caller_as_the_table_says() {
    let served = with_repositories().await;
    let callers = callers(&served).await;
    for (method, route, expected) in OF_THE_SERVER {
        for (number, ((caller, token), expected)) in callers.iter().zip(expected).enumerate() {
            let (_, mine) = served.token(json!({"owner": "alice", "scope": "read"})).await;
            let path = path_of(route, "opened").replace("{token}", &mine);
            let answer = ask(&served, method, &path, token.as_deref(), body(method, route, number)).await;
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, expected, "{method} {route} as {caller}: {text}");
        }
    }
}

#[tokio::test]
async fn who_may_not_see_a_repository_gets_the_same_bytes_for_a_private_a_deleted_and_a_missing_one() {
    let served = with_repositories().await;
    let mut compared = 0;
    for (caller, token) in callers(&served).await.into_iter().filter(|(caller, _)| STRANGERS.contains(caller)) {
        for (method, route, who, _) in OF_REPOSITORIES {
            let about = async |slug: &str| {
                let asked = body(method, route, 0);
                ask(&served, method, &path_of(route, slug), token.as_deref(), asked).await.about(slug, "absent")
            };
            let absent = about("absent").await;
            assert_eq!(about("closed").await, absent, "private: {method} {route} as {caller} ({who:?})");
            assert_eq!(about("erased").await, absent, "deleted: {method} {route} as {caller} ({who:?})");
            compared += 2;
        }
    }
    assert_eq!(compared, 6 * OF_REPOSITORIES.len() * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_fleet_a_private_repository_costs_what_a_missing_one_costs_and_says_the_same_also_without_the_bucket() {
    let bucket = Arc::new(Bucket::default());
    let served = filled(served_over(bucket.clone(), LogKind::Bucket(SegmentRule::DEFAULT))).await;
    let callers = callers(&served).await;
    // The key of tickets is read once.
    ask(&served, "GET", &format!("/alice/opened/mpack/{HELD_ID}{NO_TICKET}"), None, None).await;
    for is_down in [false, true] {
        bucket.is_down.store(is_down, Ordering::SeqCst);
        for (caller, token) in callers.iter().filter(|(caller, _)| STRANGERS.contains(caller)) {
            for (method, route, who, _) in OF_REPOSITORIES {
                let about = async |slug: &str| {
                    let before = bucket.asked.load(Ordering::SeqCst);
                    let query = if who == Who::Ticket { NO_TICKET } else { "" };
                    let path = format!("{}{query}", path_of(route, slug));
                    let answer = ask(&served, method, &path, token.as_deref(), body(method, route, 0)).await;
                    (answer.about(slug, "absent"), bucket.asked.load(Ordering::SeqCst) - before)
                };
                let absent = about("absent").await;
                for slug in ["closed", "erased"] {
                    let which = format!("{slug}, bucket down: {is_down}: {method} {route} as {caller} ({who:?})");
                    assert_eq!(about(slug).await, absent, "{which}");
                }
            }
        }
    }
}

/// What stands in the parentheses of each `.route(…)` of a source, tests apart.
fn calls_of_route(source: &str) -> impl Iterator<Item = &str> {
    source.split(".route(").skip(1).map(|rest| {
        let mut open = 1;
        let end = rest.find(|letter| {
            open += i32::from(letter == '(') - i32::from(letter == ')');
            open == 0
        });
        &rest[..end.unwrap()]
    })
}

/// Every source of a folder, tests apart.
#[allow(clippy::disallowed_methods, reason = "our own source")]
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false if path.to_string_lossy().ends_with("_tests.rs") => Vec::new(),
        false => vec![(path.clone(), std::fs::read_to_string(&path).unwrap())],
    };
    entries.flat_map(of).collect()
}

#[test]
fn every_route_has_a_row() {
    let mut routes = BTreeSet::new();
    for (path, source) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")) {
        let prefix = if path.components().any(|part| part.as_os_str() == "admin") { "/api/v1" } else { "" };
        for call in calls_of_route(&source) {
            let mut quoted = call.split('"');
            let (route, handlers) = (quoted.nth(1).unwrap(), quoted.next().unwrap());
            let methods = ["get", "post", "put", "patch", "delete"];
            let added = methods.into_iter().filter(|method| handlers.contains(&format!("{method}(")));
            let before = routes.len();
            routes.extend(added.map(|method| (method.to_uppercase(), format!("{prefix}{route}"))));
            assert!(routes.len() > before, "{}: no method in {call}", path.display());
        }
    }
    assert!(routes.len() > 30, "{routes:?}");
    let rows = OF_REPOSITORIES.iter().map(|(method, route, ..)| (method, route));
    let rows = rows.chain(OF_THE_SERVER.iter().map(|(method, route, _)| (method, route)));
    let rows: BTreeSet<(String, String)> =
        rows.map(|(method, route)| ((*method).to_owned(), (*route).to_owned())).collect();
    let missing: Vec<_> = routes.difference(&rows).collect();
    assert!(missing.is_empty(), "endpoints without a row: {missing:?}");
}

#[tokio::test]
async fn an_address_that_is_no_name_finds_nothing_and_brings_nothing_into_the_answer() {
    let served = with_repositories().await;
    let no_names = [
        "%2e%2e",
        "..",
        "%2e",
        "a%2fopened",
        "opened%2f..",
        "opened%00",
        "%00",
        "OPENED",
        "Opened",
        "opened%20",
        "%20opened",
        "opened.%20",
        "-opened",
        ".opened",
        "opened%0d%0aX-Injected:%20yes",
        "op%C3%A9ned",
        "opene%CC%81d",
        "%EF%BB%BFopened",
        "opened%5C",
        "op\u{65}ned~1",
        "con:",
        "%252e%252e",
        "opened;x",
        "@%7b0%7d",
    ];
    for slug in no_names {
        for path in
            [format!("/alice/{slug}/refs"), format!("/{slug}/opened/refs"), format!("/api/v1/repos/alice/{slug}")]
        {
            let answer = ask(&served, "GET", &path, Some(OPERATOR), None).await;
            assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
            assert!(!answer.detail().is_empty(), "{path}: {answer:?}");
            assert!(!answer.headers.iter().any(|(name, _)| name.contains("injected")), "{path}: {answer:?}");
        }
    }
}
