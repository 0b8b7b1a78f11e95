//! Every endpoint that reads a body, through the whole server: routes, intake, decoding, the hub.
//!
//! The promise: no body is the server's fault. The answer is a success or a refusal in words (4xx), never 5xx, and never 409,
//! which the client takes for a branch that diverged. The hub lives as long as the process: what one input stored, the next
//! one meets.

use std::sync::OnceLock;

use axum::{Router, body::Body};
use http_body_util::BodyExt;
use hyper::{Method, Request};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::{split, wire};
use crate::hub_in_process::HubInProcess;

/// Method, path and content type of every request that has a body.
const ENDPOINTS: [(Method, &str, &str); 17] = [
    (Method::POST, "/alice/demo/filter-objects", MSGPACK),
    (Method::POST, "/alice/demo/fetch", MSGPACK),
    (Method::POST, "/alice/demo/push/objects", MSGPACK),
    (Method::POST, "/alice/demo/push", MSGPACK),
    (Method::POST, "/alice/demo/presign", MSGPACK),
    (Method::POST, "/alice/demo/negotiate", MSGPACK),
    (Method::POST, "/alice/demo/tags", MSGPACK),
    (Method::POST, "/alice/demo/releases", JSON),
    (Method::POST, "/api/v1/repos", JSON),
    (Method::PATCH, "/api/v1/repos/alice/other", JSON),
    (Method::POST, "/api/v1/tokens", JSON),
    (Method::POST, "/alice/demo/push", JSON),
    (Method::POST, "/alice/demo/fetch/mpack", MSGPACK),
    (Method::POST, "/alice/demo/push/mpack-presign", MSGPACK),
    (Method::POST, "/alice/demo/push/unpack-mpack", JSON),
    (Method::POST, "/alice/demo/fetch/presign", MSGPACK),
    (Method::POST, "/api/v1/repos/alice/demo/adopt", JSON),
];
const MSGPACK: &str = "application/x-msgpack";
const JSON: &str = "application/json";

pub(super) fn endpoints(input: &[u8]) {
    let (which, body) = split(input);
    let (method, path, kind) = &ENDPOINTS[usize::from(which) % ENDPOINTS.len()];
    let rig = rig();
    let request = Request::builder()
        .method(method)
        .uri(*path)
        .header("content-type", *kind)
        .header("authorization", &rig.credential)
        .body(Body::from(body.to_vec()))
        .expect("a request");
    let (status, text) = rig.runtime.block_on(async {
        let answer = match rig.router.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        (answer.status(), answer.into_body().collect().await)
    });
    let text = text.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    assert!(status.as_u16() < 500, "{method} {path}: {status} {}", String::from_utf8_lossy(&text));
    assert!(status.is_success() || !text.is_empty(), "{method} {path}: {status} without a word");
    let may_conflict = path.ends_with("/releases") || path.ends_with("/repos");
    assert!(status.as_u16() != 409 || may_conflict, "{method} {path}: {}", String::from_utf8_lossy(&text));
}

struct Rig {
    router: Router,
    runtime: Runtime,
    credential: String,
    #[allow(dead_code, reason = "it serves while the process lives, and its directory stays that long")]
    hub: (HubInProcess, tempfile::TempDir),
}

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let hub = HubInProcess::open(dir.path(), 16);
        for name in ["alice/demo", "alice/other"] {
            hub.create_repo(name);
        }
        let credential = hub.operator_credential();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Rig { router: hub.router(), runtime, credential, hub: (hub, dir) }
    })
}

/// The bodies of the wire protocol, and small ones for the others.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = wire::request_seeds();
    let asked: Vec<Vec<u8>> = seeds[..2].to_vec();
    for (seed, which) in asked.iter().zip([4_u8, 5]) {
        seeds.push([&[which], &seed[1..]].concat());
    }
    seeds.extend([12, 15].map(|which| [&[which], &asked[1][1..]].concat()));
    let tag = crate::client::ids::EMPTY;
    let texts = [
        (
            7_u8,
            r#"{"tag":"v1.0.0","title":"first","changelog":[{"a":null}],"is_draft":false,"channel":"stable"}"#
                .to_owned(),
        ),
        (
            8,
            r#"{"owner":"alice","slug":"third","domain":"code","visibility":"private","default_branch":"main"}"#
                .to_owned(),
        ),
        (9, r#"{"visibility":"public","default_branch":"main","domain":"midi"}"#.to_owned()),
        (10, r#"{"owner":"alice","scope":"write","repo":"alice/demo","expires_ms":60000}"#.to_owned()),
        (11, r#"{"bundle":{"commits":[],"snapshots":[],"objects":[]},"branch":"main","force":false}"#.to_owned()),
    ];
    seeds.extend(texts.into_iter().map(|(which, text)| [&[which], text.as_bytes()].concat()));
    let uploads = [
        (13_u8, r#"{"bytes":7,"sha256":"ID"}"#),
        (14, r#"{"uploads":["ID"],"branch":"main","tip":"ID","force":true}"#),
    ];
    for (which, text) in uploads {
        let text = text.replace("ID", tag);
        let mut body = vec![which];
        if which == 14 {
            body.extend_from_slice(text.as_bytes());
        } else {
            reprise_server::wire::transcode::append(text.as_bytes(), &mut body).expect("JSON");
        }
        seeds.push(body);
    }
    let mut tags = vec![6];
    reprise_server::wire::transcode::append(
        format!(r#"{{"tags":[{{"tag":"one","commit_id":"{tag}","tag_id":"1"}}]}}"#).as_bytes(),
        &mut tags,
    )
    .expect("JSON");
    seeds.push(tags);
    seeds
}
