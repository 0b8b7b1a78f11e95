//! One push with an `Idempotency-Key`, that can be sent again and must then be answered as before.

use std::{thread, time::Duration};

use rand::{RngExt, rngs::StdRng};

use crate::{
    client::{
        Failure, Remote, Repository, Request, Response, Value,
        push::{bundle_body, candidates, commits_to_send, filter_objects, push_objects},
    },
    workload::{Field, Outcome},
};

/// A push, ready to be sent as often as one likes.
pub struct Keyed {
    /// The push id: a UUID, so that the log shows it as it is.
    pub key: String,
    /// The commit that the branch is to be moved to.
    pub head: String,
    body: Vec<u8>,
}

impl Keyed {
    /// Uploads what the server lacks of `branch` and prepares its push; `None` when the server is gone. Commits below those
    /// in the tracking refs are not sent.
    pub fn prepare(
        local: &Repository,
        branch: &str,
        force: bool,
        remote: &Remote,
        field: &Field,
        random: &mut StdRng,
    ) -> Option<Keyed> {
        let head = local.head(branch).to_owned();
        let commits = commits_to_send(local, None, &head);
        field.archive().keep(local, &commits);
        let candidates = candidates(local, &commits);
        let upload = |_| filter_objects(remote, &candidates).and_then(|ids| push_objects(&local.objects, remote, &ids));
        let busy = |done: &Result<(), Failure>| matches!(done, Err(Failure::Status { code: 429 | 503, .. }));
        // Who is told to come later does so: without its objects the push would be refused, and rightly.
        let uploaded = (0..UPLOADS_MAX).map(upload).find(|done| {
            if busy(done) {
                thread::sleep(UPLOADS_PACE);
            }
            !busy(done)
        });
        let Some(uploaded) = uploaded else {
            assert!(field.is_doomed(), "an upload was refused {UPLOADS_MAX} times");
            return None;
        };
        match uploaded {
            Ok(()) => {}
            Err(failure) if failure.code().is_some() => panic!("an upload was refused: {failure}"),
            Err(failure) => {
                assert!(field.is_doomed(), "the server lives and gave no answer: {failure}");
                return None;
            }
        }
        let body = bundle_body(local, &commits, branch, force).encode();
        Some(Keyed { key: push_id(random), head, body })
    }

    /// Sends it.
    pub fn send(&self, remote: &Remote) -> Result<Response, Failure> {
        self.request(remote).send()
    }

    /// The request.
    pub fn request(&self, remote: &Remote) -> Request<'_> {
        let request = Request::post(format!("{}/push", remote.url), remote.token.as_deref(), &self.body);
        request.header("Idempotency-Key", &self.key)
    }

    /// Sends it. 200 without `ok: true` is a refusal.
    pub fn outcome(&self, remote: &Remote, field: &Field) -> Outcome {
        match field.outcome(self.send(remote)) {
            Outcome::Done(response) => {
                let answer = response.decode().expect("an answer in msgpack");
                match answer.get("ok") {
                    Some(Value::Bool(true)) => Outcome::Done(response),
                    _ => Outcome::Refused(response.code, answer.text("message").to_owned()),
                }
            }
            other => other,
        }
    }
}

/// A server that refuses more often is none.
const UPLOADS_MAX: usize = 100;
const UPLOADS_PACE: Duration = Duration::from_millis(50);

/// A random UUID.
fn push_id(random: &mut StdRng) -> String {
    let mut bytes: [u8; 16] = random.random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
