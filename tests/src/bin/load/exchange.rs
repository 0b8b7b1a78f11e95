//! One exchange over one connection, cheap on CPU: the request is bytes made beforehand, the answer is read and dropped.
//!
//! Invariant: a status other than 200 ends the measurement, so that no figure is made of refusals.

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
        let rest = remote.url.strip_prefix("http://").expect("http");
        let (host, path) = rest.split_at(rest.find('/').expect("a path"));
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

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
