//! Exchanges that are cheap on CPU: the request is bytes made beforehand, the answer is read and dropped, or looked at as it comes.
//!
//! Invariant: a status other than the expected one ends the measurement, so that no figure is made of refusals.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use reprise_tests::client::Remote;

/// A request as it goes over the wire, for one server.
pub struct Prepared {
    host: String,
    bytes: Vec<u8>,
}

/// What one exchange took.
pub struct Taken {
    /// From connect to the last byte.
    pub whole: Duration,
    /// From the last byte sent to the first byte of the answer.
    pub first_byte: Duration,
    /// Bytes of the answer, head included.
    pub bytes: u64,
}

impl Prepared {
    /// GET or POST of a path below the remote.
    pub fn new(remote: &Remote, method: &str, endpoint: &str, body: &[u8]) -> Prepared {
        let (host, path) = place(&remote.url);
        let token =
            remote.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let content = match method {
            "POST" => format!("Content-Type: application/x-msgpack\r\nContent-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let head = format!(
            "{method} {path}/{endpoint} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\n\
             User-Agent: Python-urllib/3.13\r\nAccept: application/x-msgpack, application/json\r\n\
             {content}{token}Connection: close\r\n\r\n"
        );
        Prepared { host: host.to_owned(), bytes: [head.as_bytes(), body].concat() }
    }

    /// Sends it and drops the answer.
    pub fn run(&self, buffer: &mut [u8]) -> Taken {
        let started = Instant::now();
        let mut stream = TcpStream::connect(&self.host).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream.write_all(&self.bytes).expect("send");
        let sent = Instant::now();
        let mut length = stream.read(buffer).expect("read");
        // Interim answers say that the server is still at it.
        while buffer[..length].starts_with(INTERIM) {
            buffer.copy_within(INTERIM.len()..length, 0);
            length -= INTERIM.len();
            if length == 0 {
                length = stream.read(buffer).expect("read");
            }
        }
        let first_byte = sent.elapsed();
        assert!(buffer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..length]));
        let mut bytes = 0;
        while length > 0 {
            bytes += length as u64;
            length = stream.read(buffer).expect("read");
        }
        Taken { whole: started.elapsed(), first_byte, bytes }
    }
}

/// A connection that is kept for one range after the other.
pub struct Kept {
    host: String,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Kept {
    /// A connection to whom `url` names.
    pub fn to(url: &str) -> Kept {
        let host = place(url).0.to_owned();
        let stream = TcpStream::connect(&host).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Kept { host, stream, buffer: vec![0; 256 << 10] }
    }

    /// Asks for `len` bytes from `offset` on, and hands out what comes of them.
    pub fn range(&mut self, url: &str, offset: u64, len: u64, each: &mut dyn FnMut(&[u8])) {
        let (host, path) = place(url);
        assert_eq!(host, self.host, "one connection is to one server");
        let last = offset + len - 1;
        let asked = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={offset}-{last}\r\n\r\n");
        self.stream.write_all(asked.as_bytes()).expect("send");
        let (mut held, mut body) = (0, None);
        while body.is_none() {
            let read = self.stream.read(&mut self.buffer[held..]).expect("read");
            assert!(read > 0, "the answer broke off");
            held += read;
            body = self.buffer[..held].windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        }
        let body = body.unwrap_or(held);
        let head = String::from_utf8_lossy(&self.buffer[..body]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 206") && head.contains(&format!("content-length: {len}\r\n")), "{head}");
        each(&self.buffer[body..held]);
        let mut left = len - (held - body) as u64;
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).expect("read");
            assert!(read > 0 && read as u64 <= left, "the answer broke off, or is longer than it was said to be");
            each(&self.buffer[..read]);
            left -= read as u64;
        }
    }
}

/// Host and path of a URL.
fn place(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("http");
    rest.split_at(rest.find('/').expect("a path"))
}

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
