//! Every bound on what a caller may send, ask for or hold. A refusal names the limit and its value.
//!
//! Defaults accept at least what the stock client sends (it retries nothing and splits little).

use std::time::Duration;

use reprise_engine::limits as engine;

/// Rows of the packs that one `push/unpack-mpack` takes, and packs in it: what a hub takes unless it is configured otherwise, and
/// what our own client sends at most.
pub const UNPACK_ROWS_MAX: usize = 131_072;
/// See [`UNPACK_ROWS_MAX`].
pub const UPLOADS_PER_REPO_MAX: usize = 16;

/// The bounds of one server. All configurable; [`Limits::default`] is what `serve` uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of one answer to the stock client, which refuses more (64 MiB).
    pub response_bytes_max: u64,
    /// Bytes of a `push/objects` body.
    pub objects_body_bytes_max: u64,
    /// Bytes of a `push` body.
    pub push_body_bytes_max: u64,
    /// Bytes of a body that is a list of ids (`filter-objects`, `fetch`, `presign`).
    pub ids_body_bytes_max: u64,
    /// Bytes of a `negotiate` body.
    pub negotiate_body_bytes_max: u64,
    /// Bytes of a JSON body (releases) or a `tags` body.
    pub json_body_bytes_max: u64,
    /// Bytes of a body of the admin API.
    pub admin_body_bytes_max: u64,
    /// A body beyond this goes to the spool directory instead of memory.
    pub spool_threshold_bytes: u64,
    /// Objects in one `push/objects`.
    pub objects_per_request_max: usize,
    /// Bytes of one blob.
    pub blob_bytes_max: u64,
    /// Commits in one push.
    pub commits_per_push_max: usize,
    /// Snapshots in one push.
    pub snapshots_per_push_max: usize,
    /// Paths in one snapshot.
    pub snapshot_entries_max: usize,
    /// Bytes of one snapshot or commit record.
    pub record_bytes_max: u64,
    /// Ids in one `filter-objects`.
    pub filter_ids_max: usize,
    /// Ids in one `presign`.
    pub presign_ids_max: usize,
    /// Ids that large lists of them (`filter-objects`, `presign`, `fetch`) hold in memory together, from when they are decoded
    /// until their answers stand in the spool: 32 bytes each, twice that while a list grows.
    pub listed_ids_max: usize,
    /// Wanted commits in one `fetch`.
    pub fetch_want_max: usize,
    /// Commits that a `fetch` says it has.
    pub fetch_have_max: usize,
    /// Want and have ids of one `negotiate`, each.
    pub negotiate_ids_max: usize,
    /// Commits that one walk (fast-forward check, fetch) may visit.
    pub walk_commits_max: usize,
    /// Objects in one fetch plan.
    pub plan_objects_max: usize,
    /// Bytes of one uploaded pack: a stored pack, or one that holds a single blob.
    pub upload_bytes_max: u64,
    /// Bytes that all uploads announced and not yet unpacked have together. Who has most of them makes room for others.
    pub uploads_bytes_max: u64,
    /// Uploads announced and not yet unpacked, in all. Who has most bytes of them makes room for others.
    pub uploads_max: usize,
    /// Uploads in one `push/unpack-mpack`, and the last so many announcements for one repository that count.
    pub uploads_per_repo_max: usize,
    /// Rows of all packs that are being unpacked, hence of one `push/unpack-mpack`.
    pub unpack_rows_max: usize,
    /// Bytes of all packs that are being unpacked, hence of one `push/unpack-mpack`: they lie on this server's disk meanwhile.
    pub unpack_bytes_max: u64,
    /// How long an upload is kept from its announcement on.
    pub upload_time_max: Duration,
    /// How long an address for reading a stored pack is good.
    pub download_time_max: Duration,
    /// Missing objects that one refusal lists.
    pub missing_listed_max: usize,
    /// Branches of one repository.
    pub refs_per_repo_max: usize,
    /// Live repositories of one owner.
    pub repos_per_owner_max: usize,
    /// Valid tokens of one owner.
    pub tokens_per_owner_max: usize,
    /// Tags in one request.
    pub tags_per_request_max: usize,
    /// Entries in a release's changelog.
    pub changelog_entries_max: usize,
    /// Bytes of one release's record.
    pub release_bytes_max: u64,
    /// Releases in one answer.
    pub releases_listed_max: usize,
    /// Bytes of a header block.
    pub header_bytes_max: usize,
    /// Blocking jobs at a time.
    pub blocking_jobs_max: usize,
    /// `fetch` requests worked on at a time.
    pub fetches_max: usize,
    /// `push` and `push/unpack-mpack` requests worked on at a time.
    pub pushes_max: usize,
    /// `push/objects` requests worked on at a time.
    pub object_uploads_max: usize,
    /// `push` and `push/objects` requests with a body of at most 256 KiB that share one place of the two above: they mostly wait for
    /// disk or bucket.
    pub small_uploads_per_place: usize,
    /// Requests that ask the index for much (`filter-objects`, `presign`, `negotiate`, releases) worked on at a time.
    pub questions_max: usize,
    /// `GET objects/{id}` and `GET mpack/{pack}` requests worked on at a time.
    pub object_reads_max: usize,
    /// `PUT objects/{id}` and `PUT mpack/{upload}` requests worked on at a time: a disk and a connection each, and as long as the
    /// client is slow.
    pub arrivals_max: usize,
    /// Those of them for one repository.
    pub arrivals_per_repo_max: usize,
    /// Requests waiting for places of each of the kinds above; beyond this the answer is 429 at once.
    pub waiting_max: usize,
    /// How long a request may wait for its turn before it is answered 503. Its body is not read meanwhile, and the stock
    /// client gives a body 60 s in all.
    pub waiting_time_max: Duration,
    /// Open connections.
    pub connections_max: usize,
    /// Requests per second and client address, averaged; 0: unlimited. Loopback addresses are exempt unless
    /// `rate_limit_loopback`.
    pub requests_per_second: u32,
    /// Requests a client address may make at once before the average counts.
    pub requests_burst: u32,
    /// Whether the rate limit counts loopback addresses too.
    pub rate_limit_loopback: bool,
    /// How long a client may take to send its headers.
    pub header_time_max: Duration,
    /// How long a request body may stand still, and how long a client may take no byte of its answer.
    pub body_idle_max: Duration,
    /// Bytes per second, averaged, that a client must send of its body and take of its answer: each time it keeps the server
    /// waiting counts against `body_idle_max`, and each byte makes good for its time at this rate.
    pub transfer_rate_min: u64,
    /// Bytes of a local log that its bucket has not taken; beyond this nothing more is taken from clients.
    pub unarchived_bytes_max: u64,
    /// How long a shutdown waits for accepted requests.
    pub shutdown_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            response_bytes_max: 64 << 20,
            objects_body_bytes_max: 4 << 30,
            push_body_bytes_max: 2 << 30,
            ids_body_bytes_max: 256 << 20,
            negotiate_body_bytes_max: 1 << 20,
            json_body_bytes_max: 4 << 20,
            admin_body_bytes_max: 64 << 10,
            spool_threshold_bytes: 2 << 20,
            objects_per_request_max: 10_000,
            blob_bytes_max: engine::BLOB_BYTES_MAX,
            commits_per_push_max: 200_000,
            snapshots_per_push_max: 200_000,
            snapshot_entries_max: engine::SNAPSHOT_ENTRIES_MAX,
            record_bytes_max: engine::RECORD_BYTES_MAX,
            filter_ids_max: 1_000_000,
            presign_ids_max: 1_000_000,
            listed_ids_max: 1_500_000,
            fetch_want_max: 65_536,
            fetch_have_max: 2_000_000,
            negotiate_ids_max: 4_096,
            walk_commits_max: 2_000_000,
            plan_objects_max: 4_000_000,
            upload_bytes_max: engine::PACK_BYTES_MAX + (16 << 20),
            uploads_bytes_max: 16 << 30,
            uploads_max: 1_024,
            uploads_per_repo_max: UPLOADS_PER_REPO_MAX,
            unpack_rows_max: UNPACK_ROWS_MAX,
            unpack_bytes_max: 8 << 30,
            upload_time_max: Duration::from_secs(3_600),
            download_time_max: Duration::from_secs(900),
            missing_listed_max: 20,
            refs_per_repo_max: 100_000,
            repos_per_owner_max: 100_000,
            tokens_per_owner_max: 1_000,
            tags_per_request_max: 10_000,
            changelog_entries_max: 5_000,
            release_bytes_max: 1 << 20,
            releases_listed_max: 10_000,
            header_bytes_max: 64 << 10,
            blocking_jobs_max: 32,
            fetches_max: 16,
            pushes_max: 8,
            object_uploads_max: 16,
            small_uploads_per_place: 8,
            questions_max: 16,
            object_reads_max: 8,
            arrivals_max: 64,
            arrivals_per_repo_max: 16,
            waiting_max: 256,
            waiting_time_max: Duration::from_secs(20),
            connections_max: 4_096,
            requests_per_second: 200,
            requests_burst: 2_000,
            rate_limit_loopback: false,
            header_time_max: Duration::from_secs(30),
            body_idle_max: Duration::from_secs(60),
            transfer_rate_min: 16 << 10,
            unarchived_bytes_max: 256 << 20,
            shutdown_time_max: Duration::from_secs(30),
        }
    }
}
