//! The hub inside the test's process, its clock and randomness ours: for histories that must be the same in every run, and
//! for planted bugs, which are switched on per process.
//!
//! Invariants: spoken to over its socket like the real one; the directory it leaves is one that `reprise` opens.

use std::{
    fs,
    path::Path,
    sync::{Arc, mpsc},
    task::Poll,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::real::RealDisk,
    engine::{Engine, Options, Parts},
    store::directory::DirectoryStore,
};
use reprise_projections::Projections;
use reprise_server::{
    Hub, Limits,
    hub::{HubParts, Secret},
};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::client::{Remote, Request};

/// The operator's secret of every hub in process.
const OPERATOR: &str = "operator-of-the-tests";
/// 2026-03-16T12:00:00Z, where the clock stands.
const NOW_MS: u64 = 1_773_662_400_000;

/// A hub that serves until it is dropped or closed.
pub struct HubInProcess {
    host: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The clock, for tests that move it.
    pub clock: Arc<ManualClock>,
    /// The read models, for tests that look at them directly.
    pub projections: Projections,
    hub: Arc<Hub>,
}

impl HubInProcess {
    /// Opens (or creates) the data directory and serves it on a free loopback port. Random bytes come from `seed`.
    pub fn open(data: &Path, seed: u64) -> HubInProcess {
        let clock = Arc::new(ManualClock::new(NOW_MS));
        let random = Arc::new(SeededRandom::new(seed));
        let (objects, spool) = (data.join("objects"), data.join("spool"));
        fs::create_dir_all(&spool).expect("the data directory");
        let store = DirectoryStore::new(Arc::new(RealDisk::new(objects)), random.clone());
        let disk = Arc::new(RealDisk::new(data.to_path_buf()));
        let parts = Parts { disk, store: Arc::new(store), clock: clock.clone(), random };
        let (engine, _) = Engine::open(parts, Options::new("a test")).expect("the log opens");
        let options = reprise_projections::Options {
            dir: Some(data.join("index")),
            cache_bytes: 16 << 20,
            memtable_bytes: 16 << 20,
        };
        let projections = Projections::open(engine.clone(), options).expect("the projections open");
        let hub = Arc::new(Hub::new(HubParts {
            engine,
            projections: projections.clone(),
            limits: Limits::default(),
            spool_dir: spool,
            create_on_push: None,
            operator: Secret::new(OPERATOR),
        }));
        let (stop, stopped) = oneshot::channel();
        let (address, found) = mpsc::channel();
        let served = Arc::clone(&hub);
        let thread = thread::spawn(move || serve(&served, &address, stopped));
        let host = found.recv().expect("the hub listens");
        wait_until_something_answers(&projections);
        HubInProcess { host, stop: Some(stop), thread: Some(thread), clock, projections, hub }
    }

    /// Posts a body as the operator and goes away once the request has been polled `polls` times, as a connection does
    /// whose client is gone. What was queued for the log till then is decided when this returns. True: it was answered.
    pub fn post_and_go_away(&self, path: &str, body: Vec<u8>, polls: usize) -> bool {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let router = self.router();
        let request = hyper::Request::post(format!("/{path}"))
            .header("authorization", self.operator_credential())
            .body(axum::body::Body::from(body))
            .expect("a request");
        let mut left = polls;
        let answered = runtime.block_on(async {
            let mut answer = std::pin::pin!(router.oneshot(request));
            std::future::poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                match answer.as_mut().poll(context) {
                    Poll::Ready(_) => Poll::Ready(true),
                    Poll::Pending if left == 0 => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        });
        // Work that goes on without its client needs its runtime: it ends with it, when nothing is left to do.
        self.token("barrier");
        runtime.shutdown_timeout(Duration::from_secs(5));
        answered
    }

    /// Its routes, for requests without a socket.
    pub fn router(&self) -> axum::Router {
        reprise_server::http::router(Arc::clone(&self.hub))
    }

    /// The operator's `Authorization` header.
    pub fn operator_credential(&self) -> String {
        format!("Bearer {OPERATOR}")
    }

    /// The URL of a repository, or of anything else below the root.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    /// A repository as a remote.
    pub fn remote(&self, repo: &str, token: &str) -> Remote {
        Remote { url: self.url(repo), token: Some(token.to_owned()) }
    }

    /// Creates a repository.
    pub fn create_repo(&self, name: &str) {
        let (owner, slug) = name.split_once('/').expect("owner/slug");
        self.admin("POST", "repos", Some(&json!({"owner": owner, "slug": slug})));
    }

    /// Deletes a repository.
    pub fn delete_repo(&self, name: &str) {
        self.admin("DELETE", &format!("repos/{name}"), None);
    }

    /// Issues a token with write scope: its secret and its id.
    pub fn token(&self, owner: &str) -> (String, String) {
        let answer = self.admin("POST", "tokens", Some(&json!({"owner": owner, "scope": "write"})));
        let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned();
        (text("token"), text("token_id"))
    }

    /// Revokes a token.
    pub fn revoke(&self, id: &str) {
        self.admin("DELETE", &format!("tokens/{id}"), None);
    }

    /// One call of the admin API as the operator; its JSON.
    pub fn admin(&self, method: &str, path: &str, body: Option<&Json>) -> Json {
        let url = self.url(&format!("api/v1/{path}"));
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = match method {
            "GET" => Request::get(url, Some(OPERATOR)),
            "DELETE" => Request::delete(url, Some(OPERATOR)),
            _ => Request::post_json(url, Some(OPERATOR), &bytes),
        };
        let answer = request.header("Accept", "application/json").send().expect("an answer");
        assert!((200..300).contains(&answer.code), "{method} {path}: {} {}", answer.code, answer.text());
        serde_json::from_slice(&answer.body).unwrap_or(Json::Null)
    }

    /// Stops serving and closes projections and log.
    pub fn close(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).expect("the hub still serves");
        }
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the hub ends well");
        }
    }
}

impl Drop for HubInProcess {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.finish();
        }
    }
}

/// Until then every request is answered with 503.
fn wait_until_something_answers(projections: &Projections) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while projections.status().generation.is_empty() {
        assert!(Instant::now() < deadline, "no projections: {:?}", projections.status());
        // The pace of a poll that has a deadline.
        thread::sleep(Duration::from_millis(1));
    }
}

fn serve(hub: &Arc<Hub>, address: &mpsc::Sender<String>, stopped: oneshot::Receiver<()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let host = listener.local_addr().expect("an address").to_string();
        address.send(host).expect("the test waits");
        let stop = async { drop(stopped.await) };
        reprise_server::http::serve::run(listener, Arc::clone(hub), stop).await;
    });
    hub.projections.shutdown().expect("the projections close");
    hub.engine.shutdown().expect("the log closes");
}
