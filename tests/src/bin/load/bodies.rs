//! Four push/objects bodies of 1 GiB at the same time: the server's memory must not notice.
//!
//! Contents come from a seed and are hashed while they are sent; no body is ever held, here neither.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Instant,
};

use rand::RngExt;
use reprise_tests::{client::Remote, seeds, server_process::DataDir};
use sha2::{Digest, Sha256};

use crate::figures::print;

const CONNECTIONS: u64 = 4;
/// One large object, its id after its content, then smaller ones: 1 GiB in all.
const LARGE: usize = 200 << 20;
const SMALL: usize = 1 << 20;
const SMALLS: usize = 824;

/// Prints throughput and the server's peak RSS.
pub fn run() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("load/bodies", &[]);
    let remote = server.remote("load/bodies", Some(&data.token("load")));
    let started = Instant::now();
    thread::scope(|scope| {
        for seed in 0..CONNECTIONS {
            let remote = &remote;
            scope.spawn(move || send(remote, seed));
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let bytes = CONNECTIONS as f64 * (LARGE + SMALLS * SMALL) as f64;
    print("4 push/objects bodies of 1 GiB at once", &format!("{:.0} MB/s, {seconds:.1} s", bytes / seconds / 1e6));
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}

fn send(remote: &Remote, seed: u64) {
    let rest = remote.url.strip_prefix("http://").expect("http");
    let (host, path) = rest.split_at(rest.find('/').expect("a path"));
    let mut stream = TcpStream::connect(host).expect("connect");
    let token = remote.token.as_deref().expect("a token");
    let head = format!(
        "POST {path}/push/objects HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-msgpack\r\n\
         Content-Length: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
        body_len()
    );
    stream.write_all(head.as_bytes()).expect("send");
    write_body(&mut stream, seed);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    // Work of more than ten seconds sends interim answers first.
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
}

fn write_body(stream: &mut TcpStream, seed: u64) {
    let mut random = seeds::random(seed, 1_024);
    let mut piece = vec![0; SMALL];
    stream.write_all(&open_body()).expect("send");
    let mut hash = Sha256::new();
    stream.write_all(&[&[0x82], &text("content")[..], &bin(LARGE)].concat()).expect("send");
    for _ in 0..LARGE / SMALL {
        random.fill(piece.as_mut_slice());
        hash.update(&piece);
        stream.write_all(&piece).expect("send");
    }
    stream.write_all(&[text("object_id"), text(&hex::encode(hash.finalize()))].concat()).expect("send");
    for _ in 0..SMALLS {
        random.fill(piece.as_mut_slice());
        let id = hex::encode(Sha256::digest(&piece));
        let head = [&[0x82], &text("object_id")[..], &text(&id), &text("content"), &bin(SMALL)].concat();
        stream.write_all(&head).expect("send");
        stream.write_all(&piece).expect("send");
    }
}

fn body_len() -> usize {
    let entry = 1 + text("object_id").len() + text(&"0".repeat(64)).len() + text("content").len() + bin(0).len();
    open_body().len() + (SMALLS + 1) * entry + LARGE + SMALLS * SMALL
}

fn open_body() -> Vec<u8> {
    let count = u16::try_from(SMALLS + 1).expect("few enough").to_be_bytes();
    [&[0x81], &text("objects")[..], &[0xdc], &count].concat()
}

/// A msgpack str of up to 255 bytes.
fn text(text: &str) -> Vec<u8> {
    [&[0xd9, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

/// The head of a msgpack bin.
fn bin(len: usize) -> Vec<u8> {
    [&[0xc6], &u32::try_from(len).expect("not that long").to_be_bytes()[..]].concat()
}
