//! One server and the shapes of its answers, for tests that speak the wire protocol request by request.

use crate::{
    client::{Failure, Repository, Request, Response, Value, push},
    server_process::{DataDir, ServerProcess},
};

/// A server on a directory of its own, with one repository and its owner's token.
pub struct Hub {
    /// Its directory.
    pub data: DataDir,
    /// The process.
    pub server: ServerProcess,
    /// May push to the repository.
    pub token: String,
    /// The repository's address.
    pub url: String,
}

impl Hub {
    /// Started, ready, with the repository `alice/demo`.
    pub fn start() -> Hub {
        Hub::start_with(&[])
    }

    /// The same with more arguments for the server.
    pub fn start_with(arguments: &[&str]) -> Hub {
        let data = DataDir::new();
        let server = data.serve_with(arguments);
        server.wait_ready();
        data.create_repo("alice/demo", &[]);
        let token = data.token("alice");
        let url = server.url("alice/demo");
        Hub { data, server, token, url }
    }

    /// Posts one msgpack value.
    pub fn post(&self, endpoint: &str, body: &Value) -> Response {
        self.post_bytes(endpoint, &body.encode())
    }

    /// Posts a body as it is.
    pub fn post_bytes(&self, endpoint: &str, body: &[u8]) -> Response {
        Request::post(format!("{}/{endpoint}", self.url), Some(&self.token), body).send().unwrap()
    }

    /// A local repository whose one commit was pushed.
    pub fn pushed(&self) -> Repository {
        let mut local = Repository::init();
        local.remote("origin", &self.url, Some(&self.token));
        local.commit("main", "first: ünïcode ✓", &[("a.txt", Some(b"hello\n")), ("b.txt", Some(b"world\n"))]);
        push(&mut local, "origin", "main").unwrap();
        local
    }
}

/// 200, msgpack, Content-Length, and exactly these keys.
pub fn check_shape(answer: &Response, keys: &[&str]) -> Value {
    assert_eq!(answer.code, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-msgpack"));
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!(answer.header("content-encoding"), None);
    let value = answer.decode().unwrap();
    for key in keys {
        assert!(value.get(key).is_some(), "{key} is absent from {:?}", value.keys());
    }
    check_types(&value);
    value
}

/// Only str keys, no ext, no nil where the client prints text.
fn check_types(value: &Value) {
    match value {
        Value::Map(_) => {
            for key in value.keys() {
                check_types(value.get(key).unwrap());
            }
        }
        Value::Array(items) => items.iter().for_each(check_types),
        Value::Ext(..) => panic!("ext on the wire"),
        _ => {}
    }
}

/// A 4xx with a text that fits the client's 400 characters.
pub fn check_refusal(answer: &Response, codes: &[u16]) -> String {
    assert!(codes.contains(&answer.code), "{} not in {codes:?}: {}", answer.code, answer.text());
    let Err(Failure::Status { text, .. }) = answer.decode() else { panic!("not a failure: {answer:?}") };
    assert!(!text.trim().is_empty(), "{} without a text", answer.code);
    text
}

/// One entry of a `push/objects` body.
pub fn object(id: &str, content: &[u8]) -> Value {
    Value::map([("object_id", Value::str(id)), ("content", Value::Bin(content.to_vec()))])
}

/// A `push/objects` body.
pub fn objects(items: Vec<Value>) -> Value {
    Value::map([("objects", Value::Array(items))])
}
