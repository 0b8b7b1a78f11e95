//! Direct transfer where packs are in a bucket and servers are many: bytes go between client and bucket by presigned addresses, with
//! an ordinary HTTP client, and the servers only decide.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use reprise_tests::{
    bucket::{
        Bucket,
        machine::{URL, machine},
    },
    client::{
        Refs, Repository, Request, Response, Value, clone, ids::sha256_hex, mpack, push, push::bundle_body,
        push::candidates,
    },
    fixtures, seeds,
    server_process::{DataDir, ServerProcess},
    wire_rig::check_refusal,
};

const PUSH: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";
/// The most memory that a server may ever hold (README, "figures").
const RSS_KIB_MAX: u64 = 160 << 10;

/// Servers on one bucket, and the right to push to `alice/demo`.
struct Fleet {
    bucket: Bucket,
    machines: Vec<DataDir>,
    servers: Vec<ServerProcess>,
    token: String,
}

impl Fleet {
    fn of(servers: usize, more: &[&str]) -> Fleet {
        let bucket = Bucket::start();
        let machines: Vec<DataDir> = (0..servers).map(|_| machine(&bucket)).collect();
        let servers: Vec<ServerProcess> = machines.iter().map(|data| serve(data, more)).collect();
        machines[0].create_repo("alice/demo", &[]);
        let token = machines[0].token("alice");
        Fleet { bucket, machines, servers, token }
    }

    fn url(&self, server: usize) -> String {
        self.servers[server].url("alice/demo")
    }

    fn post(&self, server: usize, endpoint: &str, body: &Value, key: Option<&str>) -> Response {
        let (url, body) = (format!("{}/{endpoint}", self.url(server)), body.encode());
        let request = Request::post(url, Some(&self.token), &body);
        match key {
            Some(key) => request.header("Idempotency-Key", key).send().unwrap(),
            None => request.send().unwrap(),
        }
    }

    fn announce(&self, server: usize, pack: &[u8]) -> Value {
        let answer = self.post(server, "push/mpack-presign", &announcement(pack), None).decode().unwrap();
        assert!(answer.text("url").starts_with(&format!("{}/reprise/hub/quarantine/", self.bucket.endpoint())));
        answer
    }

    /// Announces a pack to a server and brings it to the bucket; its name.
    fn upload(&self, server: usize, pack: &[u8]) -> String {
        let announced = self.announce(server, pack);
        assert_eq!(put(&announced, pack).code, 200);
        announced.text("upload").to_owned()
    }

    fn unpack(&self, server: usize, upload: &str, tip: &str) -> Response {
        let uploads = Value::strs([upload]);
        let body = Value::map([("uploads", uploads), ("branch", Value::str("main")), ("tip", Value::str(tip))]);
        self.post(server, "push/unpack-mpack", &body, Some(PUSH))
    }

    /// Everything of the branch `main` in one pack, made without the engine.
    fn pack_of(&self, local: &Repository) -> Vec<u8> {
        let commits = local.walk(local.head("main"), &BTreeSet::new());
        let blobs = candidates(local, &commits);
        let repo = Refs::get(&self.url(0), None).unwrap().repo_id;
        mpack::write(&repo, PUSH, 7, &mpack::objects_of(local, &commits, &blobs))
    }

    /// Whether bytes were sent to it by PUT: kinds of such requests that it counts.
    fn puts(&self, server: usize) -> usize {
        let metrics = Request::get(self.servers[server].url("metrics"), None).send().unwrap();
        let counted = |line: &&str| line.starts_with("reprise_http_requests_total") && line.contains("PUT");
        metrics.text().lines().filter(counted).count()
    }

    fn under(&self, prefix: &str) -> Vec<String> {
        let prefix = format!("hub/{prefix}/");
        self.bucket.objects.keys().into_iter().filter(|key| key.starts_with(&prefix)).collect()
    }
}

fn serve(data: &DataDir, more: &[&str]) -> ServerProcess {
    let server = data.serve_with(&[&["--bucket", URL, "--log", "bucket"], more].concat());
    server.wait_ready();
    server
}

fn announcement(pack: &[u8]) -> Value {
    let bytes = i128::try_from(pack.len()).unwrap();
    Value::map([("bytes", Value::Int(bytes)), ("sha256", Value::str(sha256_hex(pack)))])
}

/// A PUT with the headers that go with an address. The length is the body's own.
fn put(announced: &Value, body: &[u8]) -> Response {
    let headers = announced.str_map("headers");
    let headers = headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
    let request = Request::put(announced.text("url"), body);
    headers.fold(request, |request, (name, value)| request.header(name, value)).send().unwrap()
}

fn is_ok(answer: &Response) {
    assert_eq!(answer.decode().unwrap().get("ok"), Some(&Value::Bool(true)), "{}", answer.text());
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    seeds::bytes(&mut seeds::random(seed, 0), len)
}

#[test]
fn a_pack_goes_straight_to_the_bucket_and_is_stored_as_it_came() {
    let fleet = Fleet::of(1, &[]);
    let local = fixtures::etude();
    let (head, pack) = (local.head("main"), fleet.pack_of(&local));
    let upload = fleet.upload(0, &pack);
    assert_eq!(fleet.puts(0), 0, "no byte of it passed through the server");
    assert_eq!((fleet.under("quarantine").len(), fleet.under("packs").len()), (1, 0));
    fleet.bucket.objects.take_counts();
    is_ok(&fleet.unpack(0, &upload, head));
    let counts = fleet.bucket.objects.take_counts();
    let asked: u64 = counts.values().sum();
    assert!(
        asked <= 12,
        "one HEAD and GET of the upload, one PUT of the pack, one of the commit, one DELETE: {counts:?}"
    );
    let stored = fleet.under("packs");
    assert_eq!(stored, [format!("hub/packs/{}/{}.pack", &sha256_hex(&pack)[..2], sha256_hex(&pack))]);
    assert!(fleet.bucket.objects.bytes(&stored[0]).unwrap() == pack, "byte for byte");
    assert!(fleet.under("quarantine").is_empty(), "what was taken in waits no more");
    clone(&fleet.url(0)).unwrap().check_complete(head).unwrap();
    assert!(!fleet.servers[0].printed().contains("X-Amz-Signature"), "an address is a right");
}

#[test]
fn the_bucket_takes_nothing_but_what_was_announced_once_and_in_time() {
    let fleet = Fleet::of(1, &[]);
    let local = fixtures::etude();
    let (head, pack) = (local.head("main"), fleet.pack_of(&local));
    let announced = fleet.announce(0, &pack);
    let mut changed = pack.clone();
    changed[pack.len() / 2] ^= 1;
    let long = [&pack[..], b"x"].concat();
    for (wrong, code) in [(&changed[..], 400), (&pack[1..], 403), (&long[..], 403), (b"", 403)] {
        assert_eq!(put(&announced, wrong).code, code, "{} bytes", wrong.len());
        assert_eq!(Request::put(announced.text("url"), wrong).send().unwrap().code, 403, "without the headers");
        let elsewhere = announced.text("url").replace("/quarantine/", "/packs/");
        assert_eq!(Request::put(elsewhere, wrong).send().unwrap().code, 403);
    }
    assert!(fleet.under("quarantine").is_empty() && fleet.under("packs").is_empty());
    check_refusal(&fleet.unpack(0, announced.text("upload"), head), &[404]);
    assert_eq!(put(&announced, &pack).code, 200);
    assert_eq!(put(&announced, &pack).code, 412, "it is there");
    // Uploads of one repository are not there for another.
    fleet.machines[0].create_repo("alice/other", &[]);
    let body = Value::map([
        ("uploads", Value::strs([announced.text("upload")])),
        ("branch", Value::str("main")),
        ("tip", Value::str(head)),
    ]);
    let url = fleet.servers[0].url("alice/other/push/unpack-mpack");
    check_refusal(&Request::post(url, Some(&fleet.token), &body.encode()).send().unwrap(), &[404]);
    is_ok(&fleet.unpack(0, announced.text("upload"), head));
}

#[test]
fn an_address_ends_with_its_time_and_what_nobody_took_in_is_swept() {
    let fleet = Fleet::of(1, &["--limit", "upload_time_max=3"]);
    let announced = fleet.announce(0, b"some bytes");
    let upload = fleet.upload(0, b"other bytes");
    let deadline = Instant::now() + Duration::from_secs(30);
    // The bucket refuses other bytes for being others, until it refuses all of them for coming too late.
    while put(&announced, b"same bytes").code != 403 || !fleet.under("quarantine").is_empty() {
        assert!(Instant::now() < deadline, "{:?}", fleet.under("quarantine"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(put(&announced, b"some bytes").code, 403);
    check_refusal(&fleet.unpack(0, &upload, &sha256_hex(b"any")), &[404]);
}

#[test]
fn bytes_that_a_bucket_let_pass_are_not_taken_in() {
    let fleet = Fleet::of(1, &[]);
    let local = fixtures::etude();
    let (head, pack) = (local.head("main"), fleet.pack_of(&local));
    let mut changed = pack.clone();
    changed[pack.len() / 2] ^= 1;
    let other = fleet.pack_of(&{
        let mut other = Repository::init();
        other.commit("main", "other", &[("other", Some(b"other"))]);
        other
    });
    for wrong in [changed, pack[..pack.len() - 1].to_vec(), [&pack[..], b"x"].concat(), Vec::new(), other] {
        let upload = fleet.upload(0, &pack);
        // As a store would keep it that checks no checksum.
        let key = fleet.under("quarantine").remove(0);
        fleet.bucket.objects.overwrite(&key, wrong.into());
        check_refusal(&fleet.unpack(0, &upload, head), &[422]);
        assert!(fleet.under("quarantine").is_empty() && fleet.under("packs").is_empty());
    }
    let upload = fleet.upload(0, &pack);
    is_ok(&fleet.unpack(0, &upload, head));
}

#[test]
fn what_one_server_announced_another_takes_in_a_third_repeats_and_a_kill_forgets_nothing() {
    let mut fleet = Fleet::of(3, &[]);
    let local = fixtures::etude();
    let (head, pack) = (local.head("main"), fleet.pack_of(&local));
    let announced = fleet.announce(0, &pack);
    // The server that announced it is gone before the bytes come.
    fleet.servers.remove(0).kill();
    assert_eq!(put(&announced, &pack).code, 200);
    fleet.servers.insert(0, serve(&fleet.machines[0], &[]));
    is_ok(&fleet.unpack(1, announced.text("upload"), head));
    for server in [2, 0, 1] {
        let repeated = fleet.unpack(server, announced.text("upload"), head);
        is_ok(&repeated);
        assert!(repeated.text().contains("accepted before"), "{}", repeated.text());
        let cloned = clone(&fleet.url(server)).unwrap();
        cloned.check_complete(head).unwrap();
    }
    assert_eq!((fleet.under("packs").len(), fleet.under("quarantine").len()), (1, 0));
}

#[test]
fn where_clients_do_not_reach_the_bucket_tickets_are_good_at_every_server() {
    let fleet = Fleet::of(2, &["--bucket-for-clients", "no"]);
    let local = fixtures::etude();
    let (head, pack) = (local.head("main"), fleet.pack_of(&local));
    let announced = fleet.post(0, "push/mpack-presign", &announcement(&pack), None).decode().unwrap();
    let put = |server: usize, bytes: &[u8]| {
        Request::put(format!("{}/{}", fleet.url(server), announced.text("url")), bytes).send().unwrap().code
    };
    assert_eq!((put(1, b"other bytes"), put(1, &pack), put(0, &pack)), (422, 204, 412));
    assert!(fleet.puts(0) > 0 && fleet.puts(1) > 0, "they went through the servers");
    is_ok(&fleet.unpack(0, announced.text("upload"), head));
    assert!(fleet.under("packs").len() == 1 && fleet.under("quarantine").is_empty());
    let plan = fleet.post(0, "fetch/presign", &Value::map([("want", Value::strs([head]))]), None).decode().unwrap();
    let key = hex::encode(fleet.bucket.objects.bytes("hub/secrets/tickets.key").unwrap());
    let printed = fleet.servers[0].until_printed("status=412") + &fleet.servers[1].until_printed("status=422");
    assert!(!printed.contains(&key) && !printed.contains(announced.text("url").rsplit('=').next().unwrap()));
    for pack in plan.items("packs") {
        let url = format!("{}/{}", fleet.url(1), pack.text("url"));
        let answer = Request::get(url, None).send().unwrap();
        assert_eq!((answer.code, sha256_hex(&answer.body)), (200, pack.text("pack").to_owned()), "{}", answer.text());
    }
}

#[test]
fn the_stock_clients_large_blobs_go_straight_to_the_bucket_and_its_push_takes_them_in() {
    let fleet = Fleet::of(2, &[]);
    let mut local = Repository::init();
    let large = noise(3, 5 << 20);
    local.commit(
        "main",
        "large",
        &[("large", Some(&large)), ("text", Some(&b"line\n".repeat(40_000))), ("s", Some(b"s"))],
    );
    local.remote("origin", &fleet.url(0), Some(&fleet.token));
    // Wrong bytes at the address: the push that names the object says so, and the next one goes through.
    let id = sha256_hex(&large);
    let asked = Value::map([("object_ids", Value::strs([&id])), ("direction", Value::str("put"))]);
    let addresses = fleet.post(1, "presign", &asked, None).decode().unwrap().str_map("presigned");
    assert!(addresses.len() == 1 && addresses[0].1.starts_with(&fleet.bucket.endpoint()));
    assert_eq!(Request::put(&addresses[0].1, b"something else").send().unwrap().code, 200);
    let commits = local.walk(local.head("main"), &BTreeSet::new());
    let body = bundle_body(&local, &commits, "main", false);
    let refused = fleet.post(0, "push", &body, None);
    assert!(check_refusal(&refused, &[422]).contains(&id));
    assert!(fleet.under("quarantine").is_empty() && fleet.under("packs").is_empty());
    push(&mut local, "origin", "main").unwrap();
    assert!(fleet.under("quarantine").is_empty(), "taken in");
    assert_eq!((fleet.puts(0), fleet.puts(1)), (0, 0));
    let cloned = clone(&fleet.url(1)).unwrap();
    assert_eq!(cloned.materialise(local.head("main")), local.materialise(local.head("main")));
    assert!(!fleet.servers[0].printed().contains("X-Amz-Signature"));
}

#[test]
fn a_clone_comes_straight_from_the_bucket_range_by_range() {
    let fleet = Fleet::of(1, &[]);
    let mut local = fixtures::etude();
    local.remote("origin", &fleet.url(0), Some(&fleet.token));
    push(&mut local, "origin", "main").unwrap();
    local.commit("main", "large", &[("noise", Some(&noise(5, 3 << 20)))]);
    push(&mut local, "origin", "main").unwrap();
    let head = local.head("main").to_owned();
    let body = Value::map([("want", Value::strs([&head])), ("have", Value::strs([] as [&str; 0]))]);
    let plan = fleet.post(0, "fetch/presign", &body, None).decode().unwrap();
    fleet.bucket.objects.take_counts();
    let (mut cloned, mut gets) = (Repository::init(), 0);
    for listed in plan.items("packs") {
        let url = listed.text("url");
        assert!(url.starts_with(&format!("{}/reprise/hub/packs/", fleet.bucket.endpoint())));
        let part = |(offset, len): (u64, u64)| {
            let range = format!("bytes={offset}-{}", offset + len - 1);
            let answer = Request::get(url, None).header("Range", &range).send().unwrap();
            assert_eq!((answer.code, answer.body.len() as u64), (206, len), "{}", answer.text());
            gets += 1;
            (offset, answer.body)
        };
        let parts: Vec<(u64, Vec<u8>)> = mpack::ranges_of(listed).into_iter().map(part).collect();
        let entries = mpack::read_rows(mpack::rows_of(listed), &parts);
        mpack::apply(&mut cloned, &mpack::Pack { repo: String::new(), push: String::new(), entries }).unwrap();
    }
    assert_eq!(fleet.bucket.objects.take_counts().get("get"), Some(&gets), "no byte passed through the server");
    cloned.add_object(b"");
    cloned.check_complete(&head).unwrap();
    assert_eq!(cloned.materialise(&head), local.materialise(&head));
    // An address of one pack opens no other, and nothing can be written there.
    let (one, two) = (plan.items("packs")[0].text("url"), plan.items("packs")[1].text("pack"));
    let other = one.replace(plan.items("packs")[0].text("pack"), two);
    assert_eq!(Request::get(other, None).send().unwrap().code, 403);
    assert_eq!(Request::put(one, b"x").send().unwrap().code, 403);
    // Who may not read gets none.
    fleet.machines[0].create_repo("alice/hidden", &["--private"]);
    let url = fleet.servers[0].url("alice/hidden/fetch/presign");
    check_refusal(&Request::post(url, None, &body.encode()).send().unwrap(), &[404]);
}

#[test]
fn a_large_pack_passes_by_the_server_and_is_taken_in_within_its_memory() {
    let fleet = Fleet::of(1, &[]);
    let mut local = Repository::init();
    let large = noise(11, 120 << 20);
    local.commit("main", "large", &[("large", Some(&large)), ("small", Some(b"small"))]);
    let pack = fleet.pack_of(&local);
    let upload = fleet.upload(0, &pack);
    is_ok(&fleet.unpack(0, &upload, local.head("main")));
    let peak = fleet.servers[0].peak_rss_kib();
    assert!(peak <= RSS_KIB_MAX, "{peak} KiB at most, more than {RSS_KIB_MAX}");
    let stored = fleet.under("packs");
    assert!(stored.len() == 1 && fleet.bucket.objects.bytes(&stored[0]).unwrap() == pack);
}
