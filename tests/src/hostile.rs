//! Every endpoint that reads a body, with a body that it takes: what attacks start from.
//!
//! Invariants: a new endpoint belongs into [`ENDPOINTS`]; each body is accepted as it is, or a test of refusals proves nothing.

use crate::client::{Request, Response, Value, ids};
use crate::wire_rig::Hub;

/// An endpoint.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// POST or PATCH.
    pub method: &'static str,
    /// Below the server's root.
    pub path: &'static str,
    /// Whether its body is JSON (others take both, and are asked in msgpack).
    pub json: bool,
    /// A body that is taken.
    pub body: fn() -> Value,
    /// Its fields: where, and what may stand there.
    pub fields: &'static [(&'static str, &'static [Type])],
}

/// A type of msgpack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// nil
    Nil,
    /// true or false
    Bool,
    /// An integer.
    Int,
    /// A float.
    Float,
    /// A text.
    Str,
    /// Bytes.
    Bin,
    /// An array.
    Array,
    /// A map.
    Map,
    /// An extension.
    Ext,
}

impl Type {
    /// All of them.
    pub const EVERY: [Type; 9] =
        [Type::Nil, Type::Bool, Type::Int, Type::Float, Type::Str, Type::Bin, Type::Array, Type::Map, Type::Ext];

    /// A value of it.
    pub fn value(self) -> Value {
        match self {
            Type::Nil => Value::Nil,
            Type::Bool => Value::Bool(true),
            Type::Int => Value::Int(7),
            Type::Float => Value::Float(1.5),
            Type::Str => Value::str("text"),
            Type::Bin => Value::Bin(b"bytes".to_vec()),
            Type::Array => Value::Array(vec![Value::Int(1)]),
            Type::Map => Value::map([("key", Value::Int(1))]),
            Type::Ext => Value::Ext(5, b"ext".to_vec()),
        }
    }

    /// Whether JSON has it.
    pub fn is_json(self) -> bool {
        !matches!(self, Type::Bin | Type::Ext)
    }
}

/// All endpoints that read a body from a client; what the operator alone may send is in the fuzzed ones.
pub const ENDPOINTS: [Endpoint; 15] = [
    Endpoint {
        method: "POST",
        path: "alice/demo/filter-objects",
        json: false,
        body: || Value::map([("object_ids", some_ids())]),
        fields: &[("object_ids", &[]), ("object_ids.0", &[])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/presign",
        json: false,
        body: || Value::map([("object_ids", some_ids())]),
        fields: &[("object_ids", &[]), ("object_ids.0", &[])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/negotiate",
        json: false,
        body: || Value::map([("want", Value::Array(vec![])), ("have", some_ids())]),
        fields: &[("want", &[]), ("have", &[]), ("have.0", &[])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/fetch",
        json: false,
        body: || Value::map([("want", Value::Array(vec![])), ("have", some_ids())]),
        fields: &[("want", &[]), ("have", &[]), ("have.0", &[])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/fetch/mpack",
        json: false,
        body: || Value::map([("want", Value::Array(vec![])), ("have", some_ids())]),
        fields: &[("want", &[]), ("have", &[]), ("have.0", &[]), ("branch", &[Type::Str])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/fetch/presign",
        json: false,
        body: || Value::map([("want", Value::Array(vec![])), ("have", some_ids())]),
        fields: &[("want", &[]), ("have", &[]), ("have.0", &[]), ("branch", &[Type::Str])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/push/objects",
        json: false,
        body: || Value::map([("objects", an_object())]),
        fields: &[
            ("objects", &[]),
            ("objects.0", &[]),
            ("objects.0.object_id", &[]),
            // Bytes of the wrong hash are another refusal.
            ("objects.0.content", &[Type::Bin]),
        ],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/push",
        json: false,
        body: a_push,
        fields: &[
            ("bundle", &[Type::Map]),
            ("branch", &[Type::Str]),
            ("force", &[Type::Bool]),
            ("bundle.commits", &[]),
            ("bundle.commits.0", &[]),
            ("bundle.commits.0.commit_id", &[]),
            ("bundle.commits.0.snapshot_id", &[]),
            ("bundle.commits.0.message", &[Type::Str]),
            ("bundle.commits.0.committed_at", &[Type::Str]),
            ("bundle.commits.0.parent_commit_id", &[Type::Nil]),
            ("bundle.commits.0.branch", &[Type::Nil, Type::Str]),
            ("bundle.commits.0.author", &[Type::Nil, Type::Str]),
            ("bundle.snapshots", &[]),
            ("bundle.snapshots.0", &[]),
            ("bundle.snapshots.0.snapshot_id", &[]),
            ("bundle.snapshots.0.manifest", &[Type::Map]),
            ("bundle.snapshots.0.manifest.a_path", &[]),
            ("bundle.snapshots.0.created_at", &[Type::Nil, Type::Str]),
            ("bundle.objects", &[]),
            ("bundle.objects.0", &[]),
            ("bundle.objects.0.object_id", &[]),
            ("bundle.objects.0.content", &[Type::Bin]),
        ],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/push/mpack-presign",
        json: false,
        body: || Value::map([("bytes", Value::Int(7)), ("sha256", Value::str(ids::EMPTY))]),
        fields: &[("bytes", &[Type::Int]), ("sha256", &[])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/push/unpack-mpack",
        json: false,
        body: || {
            let pairs =
                [("uploads", Value::Array(vec![])), ("branch", Value::str("main")), ("tip", Value::str(ids::EMPTY))];
            Value::map(pairs)
        },
        fields: &[("uploads", &[]), ("branch", &[Type::Str]), ("tip", &[]), ("force", &[Type::Bool])],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/tags",
        json: false,
        body: || {
            let tag = [("tag", Value::str("one")), ("commit_id", Value::str(ids::EMPTY))];
            Value::map([("tags", Value::Array(vec![Value::map(tag)]))])
        },
        fields: &[
            ("tags", &[]),
            ("tags.0", &[]),
            ("tags.0.tag", &[Type::Str]),
            ("tags.0.commit_id", &[]),
            ("tags.0.tag_id", &[Type::Nil, Type::Str]),
            ("tags.0.created_at", &[Type::Nil, Type::Str]),
        ],
    },
    Endpoint {
        method: "POST",
        path: "alice/demo/releases",
        json: true,
        body: || Value::map([("tag", Value::str("v1")), ("changelog", Value::Array(vec![]))]),
        fields: &[
            ("tag", &[Type::Str]),
            ("changelog", &[Type::Nil, Type::Array]),
            ("release_id", &[Type::Nil, Type::Str]),
            ("channel", &[Type::Nil, Type::Str]),
            ("is_draft", &[Type::Nil, Type::Bool]),
        ],
    },
    Endpoint {
        method: "POST",
        path: "api/v1/repos",
        json: true,
        body: || Value::map([("owner", Value::str("alice")), ("slug", Value::str("another"))]),
        fields: &[
            ("owner", &[Type::Str]),
            ("slug", &[Type::Str]),
            ("domain", &[Type::Nil, Type::Str]),
            ("default_branch", &[Type::Nil, Type::Str]),
            ("visibility", &[Type::Nil]),
        ],
    },
    Endpoint {
        method: "PATCH",
        path: "api/v1/repos/alice/demo",
        json: true,
        body: || Value::map([("visibility", Value::str("private"))]),
        fields: &[
            ("domain", &[Type::Nil, Type::Str]),
            ("default_branch", &[Type::Nil, Type::Str]),
            ("visibility", &[Type::Nil]),
        ],
    },
    Endpoint {
        method: "POST",
        path: "api/v1/tokens",
        json: true,
        body: || Value::map([("owner", Value::str("alice"))]),
        fields: &[
            ("owner", &[Type::Str]),
            ("repo", &[Type::Nil, Type::Str]),
            ("scope", &[Type::Nil]),
            ("expires_ms", &[Type::Nil, Type::Int]),
        ],
    },
];

impl Endpoint {
    /// Sends a body as it is.
    pub fn send(&self, hub: &Hub, token: &str, body: &[u8]) -> Response {
        self.request(hub, token, body).send().expect("an answer")
    }

    /// The request of a body, for tests that add to it.
    pub fn request<'a>(&self, hub: &Hub, token: &str, body: &'a [u8]) -> Request<'a> {
        let kind = if self.json { "application/json" } else { "application/x-msgpack" };
        let url = hub.server.url(self.path);
        Request::with_method(self.method, url, Some(token), body).header("Content-Type", kind)
    }

    /// A value as this endpoint wants it.
    pub fn encode(&self, value: &Value) -> Vec<u8> {
        if self.json { json_text(value).into_bytes() } else { value.encode() }
    }
}

/// The last name of a field: what a refusal must say.
pub fn name_of(field: &str) -> &str {
    field.rsplit('.').find(|part| part.parse::<usize>().is_err()).unwrap_or(field)
}

/// `value` with another one at a place such as `objects.0.content`; a key that is not there is added.
pub fn replaced(value: &Value, place: &str, with: Value) -> Value {
    let Some((step, rest)) = place.split_once('.').or((!place.is_empty()).then_some((place, ""))) else { return with };
    match (value, step.parse::<usize>()) {
        (Value::Array(items), Ok(index)) => {
            let mut items = items.clone();
            items[index] = replaced(&items[index], rest, with);
            Value::Array(items)
        }
        (map, _) => {
            let mut map = map.clone();
            let inner = map.get(step).cloned().unwrap_or(Value::Nil);
            map.set(step, replaced(&inner, rest, with));
            map
        }
    }
}

fn json_text(value: &Value) -> String {
    match value {
        Value::Nil => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Str(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(json_text).collect::<Vec<_>>().join(",")),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| format!("{}:{}", json_text(key), json_text(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(","))
        }
        Value::Bin(_) | Value::Ext(..) => panic!("JSON has no {value:?}"),
    }
}

fn some_ids() -> Value {
    Value::strs([ids::sha256_hex(b"one"), ids::sha256_hex(b"two")])
}

fn an_object() -> Value {
    Value::Array(vec![crate::wire_rig::object(&ids::sha256_hex(b"content"), b"content")])
}

fn a_push() -> Value {
    let blob = ids::sha256_hex(b"content");
    let snapshot = ids::snapshot_id([("a_path", blob.as_str())]);
    let time = "2026-03-16T12:00:00+00:00";
    let commit = Value::map([
        ("commit_id", Value::str(ids::commit_id(&[], &snapshot, "first", time))),
        ("snapshot_id", Value::str(&snapshot)),
        ("message", Value::str("first")),
        ("committed_at", Value::str(time)),
    ]);
    let manifest = Value::map([("a_path", Value::str(blob))]);
    let snapshot = Value::map([("snapshot_id", Value::str(snapshot)), ("manifest", manifest)]);
    let bundle = Value::map([
        ("commits", Value::Array(vec![commit])),
        ("snapshots", Value::Array(vec![snapshot])),
        ("objects", an_object()),
    ]);
    Value::map([("bundle", bundle), ("branch", Value::str("main")), ("force", Value::Bool(false))])
}
