//! HTTP/1.1 as the muse client speaks it (Python's urllib): one connection per request, no retries, no redirects.
//!
//! Invariants: headers go out exactly as captured; the body is accepted by the server within 60 s in total; each wait for
//! bytes ends after 60 s; 100 Continue is skipped, every other 1xx is final; nothing above 64 MiB is read; a body
//! shorter than its Content-Length is noticed.

use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::value::Value;

/// The client refuses more than this in one answer.
pub const RESPONSE_BYTES_MAX: u64 = 64 << 20;
/// Time for one socket operation; a whole request body counts as one.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Characters of an error body that the client shows.
const ERROR_CHARACTERS: usize = 400;

/// What the client makes of an exchange that did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A status outside 2xx, with the first 400 characters of its body: printed after `HTTP <code>: `.
    Status {
        /// The status code.
        code: u16,
        /// What the user reads.
        text: String,
    },
    /// Connection refused, broken pipe, upload timeout: printed as a reason.
    Transport(String),
    /// A 2xx answer that the client cannot decode or will not read.
    Body(String),
    /// What ends the real client in a Python traceback; a server must never cause it.
    Traceback(String),
}

impl Failure {
    /// The status, if there was one.
    pub fn code(&self) -> Option<u16> {
        if let Failure::Status { code, .. } = self { Some(*code) } else { None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status { code, text } => write!(out, "HTTP {code}: {text}"),
            Failure::Transport(reason) | Failure::Body(reason) => out.write_str(reason),
            Failure::Traceback(reason) => write!(out, "Traceback: {reason}"),
        }
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub code: u16,
    /// Header names in lower case with their values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// How many `100 Continue` came first.
    pub heartbeats: usize,
}

impl Response {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, bad bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Decodes as the client does: any status outside 2xx is a failure, an empty body is an empty map, everything else
    /// is exactly one msgpack value, and one that is not a map counts as an empty map.
    pub fn decode(&self) -> Result<Value, Failure> {
        if !(200..300).contains(&self.code) {
            let text = self.text().chars().take(ERROR_CHARACTERS).collect();
            return Err(Failure::Status { code: self.code, text });
        }
        if self.body.is_empty() {
            return Ok(Value::Map(Vec::new()));
        }
        let decoded = Value::decode(&self.body);
        let value = decoded.map_err(|error| Failure::Body(format!("Server returned invalid msgpack: {error}")))?;
        Ok(if matches!(value, Value::Map(_)) { value } else { Value::Map(Vec::new()) })
    }
}

/// The parts of `http://host:port/path`.
pub fn split_url(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("not an http URL: {url}"));
    rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash))
}

/// One request. Build with [`Request::get`] and its like, then [`Request::send`].
#[derive(Clone)]
pub struct Request<'a> {
    method: &'a str,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// GET, with the headers that every command sends.
    pub fn get(url: impl Into<String>, token: Option<&str>) -> Request<'a> {
        Request::new("GET", url, token, None)
    }

    /// DELETE.
    pub fn delete(url: impl Into<String>, token: Option<&str>) -> Request<'a> {
        Request::new("DELETE", url, token, None)
    }

    /// POST of a msgpack body.
    pub fn post(url: impl Into<String>, token: Option<&str>, body: &'a [u8]) -> Request<'a> {
        Request::new("POST", url, token, Some(("application/x-msgpack", body)))
    }

    /// POST of a JSON body, as `release push` does.
    pub fn post_json(url: impl Into<String>, token: Option<&str>, body: &'a [u8]) -> Request<'a> {
        Request::new("POST", url, token, Some(("application/json", body)))
    }

    /// Any method with a body, for tests that leave the client's path.
    pub fn with_method(method: &'a str, url: impl Into<String>, token: Option<&str>, body: &'a [u8]) -> Request<'a> {
        Request::new(method, url, token, Some(("application/x-msgpack", body)))
    }

    /// PUT to a presigned URL: no Authorization, no Accept.
    pub fn put(url: impl Into<String>, body: &'a [u8]) -> Request<'a> {
        let url = url.into();
        let headers = vec![
            ("Accept-Encoding".to_owned(), "identity".to_owned()),
            ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()),
            ("Content-Length".to_owned(), body.len().to_string()),
            ("Host".to_owned(), split_url(&url).0.to_owned()),
            ("User-Agent".to_owned(), "Python-urllib/3.13".to_owned()),
            ("Connection".to_owned(), "close".to_owned()),
        ];
        Request { method: "PUT", url, headers, body: Some(body) }
    }

    fn new(
        method: &'a str,
        url: impl Into<String>,
        token: Option<&str>,
        body: Option<(&str, &'a [u8])>,
    ) -> Request<'a> {
        let url = url.into();
        let mut headers = vec![("Accept-Encoding", "identity".to_owned())];
        if let Some((_, body)) = body {
            headers.push(("Content-Length", body.len().to_string()));
        }
        headers.push(("Host", split_url(&url).0.to_owned()));
        headers.push(("User-Agent", "Python-urllib/3.13".to_owned()));
        headers.push(("Accept", "application/x-msgpack, application/json".to_owned()));
        if let Some((kind, _)) = body {
            headers.push(("Content-Type", kind.to_owned()));
        }
        if let Some(token) = token {
            headers.push(("Authorization", format!("Bearer {token}")));
        }
        headers.push(("Connection", "close".to_owned()));
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Request { method, url, headers, body: body.map(|(_, body)| body) }
    }

    /// Replaces or adds a header, for tests that leave the client's path.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request<'a> {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends and decodes as the client does.
    pub fn value(&self) -> Result<Value, Failure> {
        self.send()?.decode()
    }

    /// Sends; the answer, whatever its status.
    pub fn send(&self) -> Result<Response, Failure> {
        let (host, path) = split_url(&self.url);
        let stream = connect(host)?;
        self.write(&stream, path)?;
        read_response(&stream)
    }

    /// Its bytes as they go over the wire: for tests that send them in parts.
    pub fn bytes(&self) -> Vec<u8> {
        let head = self.head(split_url(&self.url).1);
        [head.as_bytes(), self.body.unwrap_or_default()].concat()
    }

    /// `host:port`.
    pub fn host(&self) -> &str {
        split_url(&self.url).0
    }

    fn head(&self, path: &str) -> String {
        let mut head = format!("{} {path} HTTP/1.1\r\n", self.method);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    fn write(&self, mut stream: &TcpStream, path: &str) -> Result<(), Failure> {
        let head = self.head(path);
        let failed = |error: std::io::Error| Failure::Transport(format!("upload: {error}"));
        stream.write_all(head.as_bytes()).map_err(failed)?;
        // Sending the body is one operation for the client: 60 s in total, even when the server reads steadily.
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        for part in self.body.unwrap_or_default().chunks(1 << 20) {
            if Instant::now() > deadline {
                return Err(Failure::Transport("timed out".to_owned()));
            }
            stream.write_all(part).map_err(failed)?;
        }
        Ok(())
    }
}

/// A connection as the client opens one.
pub fn connect(host: &str) -> Result<TcpStream, Failure> {
    let failed = |error: std::io::Error| Failure::Transport(format!("connect {host}: {error}"));
    let address = host.to_socket_addrs().map_err(failed)?.next().expect("an address");
    let stream = TcpStream::connect_timeout(&address, OPERATION_TIMEOUT).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(OPERATION_TIMEOUT)).map_err(failed)?;
    stream.set_write_timeout(Some(OPERATION_TIMEOUT)).map_err(failed)?;
    Ok(stream)
}

/// Reads one answer off a connection: also for tests that write their requests by hand.
pub fn read_response(stream: &TcpStream) -> Result<Response, Failure> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut heartbeats = 0;
    loop {
        let (code, headers) = read_head(&mut reader)?;
        if code == 100 {
            heartbeats += 1;
            continue;
        }
        let mut response = Response { code, headers, body: Vec::new(), heartbeats };
        response.body = read_body(&mut reader, &response)?;
        return Ok(response);
    }
}

type Head = (u16, Vec<(String, String)>);

fn read_head(reader: &mut impl BufRead) -> Result<Head, Failure> {
    let status = read_line(reader)?;
    if status.is_empty() {
        return Err(Failure::Traceback("RemoteDisconnected: Remote end closed connection without response".to_owned()));
    }
    let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| Failure::Traceback(format!("BadStatusLine: {status:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((code, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| Failure::Traceback(format!("header {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    let traceback = |error: std::io::Error| Failure::Traceback(format!("waiting for the answer: {error}"));
    reader.take(64 << 10).read_until(b'\n', &mut line).map_err(traceback)?;
    String::from_utf8(line).map_err(|error| Failure::Traceback(error.to_string()))
}

fn read_body(reader: &mut impl BufRead, response: &Response) -> Result<Vec<u8>, Failure> {
    if response.code == 204 || response.code == 304 {
        return Ok(Vec::new());
    }
    if response.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return read_chunked(reader);
    }
    let Some(length) = response.header("content-length") else { return read_capped(reader) };
    let length: u64 = length.parse().map_err(|_| Failure::Traceback(format!("Content-Length {length:?}")))?;
    if length > RESPONSE_BYTES_MAX {
        let text = format!("Server Content-Length {length} exceeds the 64 MiB response cap.");
        return Err(Failure::Body(text));
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).map_err(|error| Failure::Body(format!("reading: {error}")))?;
    if (body.len() as u64) < length {
        let text = format!("Unpack failed: incomplete input ({} of {length} bytes)", body.len());
        return Err(Failure::Body(text));
    }
    Ok(body)
}

fn read_capped(reader: &mut impl BufRead) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = reader.take(RESPONSE_BYTES_MAX + 1).read_to_end(&mut body);
    read.map_err(|error| Failure::Body(format!("reading: {error}")))?;
    if body.len() as u64 > RESPONSE_BYTES_MAX {
        return Err(Failure::Body("Response exceeds the 64 MiB response cap.".to_owned()));
    }
    Ok(body)
}

fn read_chunked(reader: &mut impl BufRead) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| Failure::Body(format!("chunk size {line:?}")))?;
        if body.len() as u64 + size > RESPONSE_BYTES_MAX {
            return Err(Failure::Body("Response exceeds the 64 MiB response cap.".to_owned()));
        }
        let before = body.len() as u64;
        reader.take(size).read_to_end(&mut body).map_err(|error| Failure::Body(format!("reading: {error}")))?;
        if body.len() as u64 != before + size {
            return Err(Failure::Body("Unpack failed: incomplete input".to_owned()));
        }
        read_line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
