//! A door before a server: it answers some requests itself and passes the others on.

use std::{
    io::{BufRead, BufReader, Read, Write, copy},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

/// What the door answers to a request with this first line; `None`: the server answers.
type Says = Arc<dyn Fn(&str) -> Option<&'static [u8]> + Send + Sync>;

pub const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The address of a door before `server`.
pub fn before(server: &str, says: impl Fn(&str) -> Option<&'static [u8]> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (server, says): (String, Says) = (server.to_owned(), Arc::new(says));
    // Ends with the test's process; every connection ends with its client.
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (server, says) = (server.clone(), Arc::clone(&says));
            thread::spawn(move || answer(client, &server, &says));
        }
    });
    address
}

fn answer(mut client: TcpStream, server: &str, says: &Says) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
        if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = reader.take(length);
    if let Some(answer) = says(head.lines().next().unwrap()) {
        copy(&mut body, &mut std::io::sink()).ok();
        client.write_all(answer).ok();
        return;
    }
    let mut server = TcpStream::connect(server).unwrap();
    server.write_all(head.as_bytes()).ok();
    let mut back = server.try_clone().unwrap();
    let answers = thread::spawn(move || {
        copy(&mut back, &mut client).ok();
        client.shutdown(Shutdown::Both).ok();
    });
    copy(&mut body, &mut server).ok();
    answers.join().unwrap();
}
