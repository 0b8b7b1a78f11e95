//! Connections over an in-memory pipe with the clock standing still: interim answers, draining, closing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use axum::{http::StatusCode, routing::post};
use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

const WORK: Duration = Duration::from_secs(35);

fn router() -> Router {
    let slow = |_: Bytes| async {
        sleep(WORK).await;
        "done"
    };
    let refuse = || async { (StatusCode::PAYLOAD_TOO_LARGE, "too large") };
    let large = || async { vec![1u8; 1 << 20] };
    Router::new()
        .route("/large", post(large))
        .route("/slow", post(slow).get(|| async { sleep(WORK).await }))
        .route("/refuse", post(refuse))
}

/// A served pipe: the client's end, and what tells the server to close.
fn connect() -> (DuplexStream, watch::Sender<bool>) {
    let (client, server) = duplex(4096);
    let (closing, seen) = watch::channel(false);
    let limits = Arc::new(Limits::default());
    let connection = Connection { router: router(), limits, peer: SocketAddr::from(([127, 0, 0, 1], 1)) };
    tokio::spawn(connection.serve_io(server, seen));
    (client, closing)
}

async fn exchange(request: &str) -> String {
    let (mut client, _closing) = connect();
    client.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut client).await
}

async fn read_all(client: &mut DuplexStream) -> String {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn beats(answer: &str) -> usize {
    answer.matches("HTTP/1.1 100 Continue\r\n\r\n").count()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_long_gets_an_interim_answer_every_ten_seconds_and_then_the_answer() {
    let answer = exchange("POST /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(beats(&answer), 3, "{answer}");
    let last = answer.rsplit("100 Continue\r\n\r\n").next().unwrap();
    assert!(last.starts_with("HTTP/1.1 200 OK") && last.ends_with("\r\n\r\ndone"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_request_is_read() {
    let (mut client, _closing) = connect();
    client
        .write_all(b"POST /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nh")
        .await
        .unwrap();
    let mut buffer = [0u8; 64];
    assert!(timeout(Duration::from_secs(45), client.read(&mut buffer)).await.is_err(), "an answer before the request");
    client.write_all(b"i").await.unwrap();
    assert!(beats(&read_all(&mut client).await) >= 3);
}

#[tokio::test(start_paused = true)]
async fn older_clients_and_plain_reads_get_no_interim_answer() {
    for request in [
        "POST /slow HTTP/1.0\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi",
        "GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ] {
        let answer = exchange(request).await;
        assert_eq!(beats(&answer), 0, "{answer}");
        assert!(answer.contains(" 200 OK"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_request_on_a_connection_beats_anew() {
    let (mut client, _closing) = connect();
    let request = |connection: &str| {
        format!("POST /slow HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\ncontent-length: 0\r\n\r\n")
    };
    client.write_all((request("keep-alive") + &request("close")).as_bytes()).await.unwrap();
    let answer = read_all(&mut client).await;
    assert_eq!(beats(&answer), 6, "{answer}");
    assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wanted_is_drained_before_the_refusal() {
    let (client, _closing) = connect();
    let (mut reader, mut writer) = tokio::io::split(client);
    let body = vec![7u8; 1 << 20];
    let head =
        format!("POST /refuse HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    writer.write_all(head.as_bytes()).await.unwrap();
    // The pipe holds 4 KiB: this ends only when the server reads all of it.
    writer.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_before_it_sends_is_refused_at_once() {
    let (mut client, _closing) = connect();
    let head = b"POST /refuse HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    client.write_all(head).await.unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_the_accepted_request_finish_and_ends_the_connection() {
    let (mut client, closing) = connect();
    client.write_all(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    closing.send_replace(true);
    let answer = read_all(&mut client).await;
    assert!(answer.ends_with("done"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_given_up() {
    let (mut client, _closing) = connect();
    client
        .write_all(b"POST /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nh")
        .await
        .unwrap();
    let started = tokio::time::Instant::now();
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(200), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_byte_by_byte_is_given_up() {
    let (mut client, _closing) = connect();
    let head = b"POST /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n";
    client.write_all(head).await.unwrap();
    for _ in 0..4 {
        sleep(Limits::default().body_idle_max - Duration::from_secs(1)).await;
        // It is read no more once the server has given up.
        client.write_all(b"x").await.unwrap_or_default();
    }
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let (mut client, _closing) = connect();
    client.write_all(b"POST /large HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    sleep(Limits::default().body_idle_max + Duration::from_secs(5)).await;
    let answer = read_all(&mut client).await;
    assert!(answer.len() < 1 << 20, "{} bytes", answer.len());
}
