//! What the machine itself can do, measured in the same run: the limits that figures are compared with.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use crate::figures::Times;
use reprise_tests::client::ids::sha256_hex;

/// SHA-256 of 4 KiB blobs on one core, per second.
pub fn sha256_4k_per_second() -> f64 {
    let blob = vec![7u8; 4_096];
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < Duration::from_millis(500) {
        for _ in 0..100 {
            black_box(sha256_hex(black_box(&blob)));
        }
        count += 100;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

/// Times of one 512-byte write and fdatasync on preallocated, zeroed space.
pub fn fdatasync() -> Times {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("sync");
    File::create(&path).expect("create").write_all(&vec![0; 4 << 20]).expect("zeroes");
    let file = OpenOptions::new().write(true).open(&path).expect("open");
    file.sync_all().expect("sync");
    let times = (0..2_000u64).map(|n| {
        let started = Instant::now();
        file.write_all_at(&[1; 512], n * 512).expect("write");
        file.sync_data().expect("fdatasync");
        started.elapsed()
    });
    Times::new(times.collect())
}

/// Bytes per second of writing 256 MiB and syncing once.
pub fn disk_write() -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let mut file = File::create(dir.path().join("write")).expect("create");
    let block = vec![7u8; 4 << 20];
    let started = Instant::now();
    for _ in 0..64 {
        file.write_all(&block).expect("write");
    }
    file.sync_data().expect("fdatasync");
    (256u64 << 20) as f64 / started.elapsed().as_secs_f64()
}

/// Bytes per second of sending 60 MB over a loopback connection, sender and receiver doing nothing else.
pub fn loopback() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let sender = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let block = vec![7u8; 256 << 10];
        for _ in 0..240 {
            stream.write_all(&block).expect("send");
        }
    });
    let mut stream = TcpStream::connect(address).expect("connect");
    let mut buffer = vec![0; 256 << 10];
    let (started, mut bytes) = (Instant::now(), 0u64);
    loop {
        match stream.read(&mut buffer).expect("read") {
            0 => break,
            length => bytes += length as u64,
        }
    }
    let rate = bytes as f64 / started.elapsed().as_secs_f64();
    sender.join().expect("the sender");
    rate
}

/// Connections per second that a server of two threads answers with 300 constant bytes each, 32 clients asking.
pub fn connections() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    for _ in 0..2 {
        let listener = listener.try_clone().expect("clone");
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok((mut stream, _)) = listener.accept() {
                drop(stream.read(&mut buffer));
                drop(stream.write_all(&[b'x'; 300]));
            }
        });
    }
    let until = Instant::now() + Duration::from_secs(1);
    let clients: Vec<_> = (0..32)
        .map(|_| {
            thread::spawn(move || {
                let (mut count, mut buffer) = (0u32, [0; 4_096]);
                while Instant::now() < until {
                    let mut stream = TcpStream::connect(address).expect("connect");
                    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("send");
                    while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
                    count += 1;
                }
                count
            })
        })
        .collect();
    clients.into_iter().map(|client| f64::from(client.join().expect("a client"))).sum()
}
