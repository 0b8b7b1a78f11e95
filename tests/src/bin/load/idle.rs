//! A server that nobody asks anything: what it costs.

use std::{fs, thread, time::Duration};

use reprise_tests::server_process::DataDir;

use crate::figures::print;

const SECONDS: u64 = 10;

/// Prints processor time and bytes moved to and from the disk while idle.
pub fn run() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("load/idle", &[]);
    // What follows a write (a flush, a spare segment) ends first.
    thread::sleep(Duration::from_secs(SECONDS));
    let before = used(server.pid());
    thread::sleep(Duration::from_secs(SECONDS));
    let after = used(server.pid());
    let ticks = after.0 - before.0;
    print(
        &format!("idle for {SECONDS} s"),
        &format!("{ticks} ticks of processor time (of {}), {} bytes of disk I/O", SECONDS * 100, after.1 - before.1),
    );
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}

/// Processor time in ticks (utime + stime), bytes read from and written to the disk.
fn used(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let ticks = number(fields[11]) + number(fields[12]);
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("/proc");
    let bytes = io.lines().filter(|line| line.contains("read_bytes") || line.starts_with("write_bytes"));
    (ticks, bytes.map(|line| number(line.rsplit(' ').next().expect("a value"))).sum())
}
