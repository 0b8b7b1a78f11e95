//! Every bound of the engine in one place. A refusal names the limit and its value.
//!
//! Invariants between bounds are const assertions at the end of this file.

/// Largest encoded frame: header, events, padding.
pub const FRAME_BYTES_MAX: u64 = 16 << 20;
/// Largest sum of encoded events in one proposal (it may span several frames, written as one group).
pub const PROPOSAL_BYTES_MAX: u64 = 64 << 20;
/// Rows in one pack, hence in one objects event.
pub const PACK_ROWS_MAX: usize = 65_536;
/// Rows in a pack that is made for one transfer and never stored.
pub const TRANSFER_ROWS_MAX: usize = 1 << 22;
/// A pack is closed once its body passes this.
pub const PACK_BYTES_TARGET: u64 = 64 << 20;
/// No pack is larger, except one that holds a single blob.
pub const PACK_BYTES_MAX: u64 = 256 << 20;
/// Largest blob.
pub const BLOB_BYTES_MAX: u64 = 256 << 20;
/// Largest payload of a snapshot or commit.
pub const RECORD_BYTES_MAX: u64 = 32 << 20;
/// Entries in one snapshot.
pub const SNAPSHOT_ENTRIES_MAX: usize = 262_144;
/// Bytes of one path in a snapshot.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Bytes of a branch name.
pub const REF_BYTES_MAX: usize = 255;
/// Bytes of a commit message that an event repeats (the record holds all of it).
pub const EVENT_MESSAGE_BYTES_MAX: usize = 4_096;
/// Bytes of the text that names who brought an event.
pub const ACTOR_BYTES_MAX: usize = 255;
/// Bytes of a commit's time text (the client writes at most 32).
pub const COMMITTED_AT_BYTES_MAX: usize = 128;
/// Bytes of the branch name inside a commit record (the client allows 255 characters).
pub const COMMIT_BRANCH_BYTES_MAX: usize = 1_024;
/// Bytes of a commit's author.
pub const AUTHOR_BYTES_MAX: usize = 1_024;
/// A tail read of this many bytes finds a pack's table, or where it starts.
pub const PACK_TAIL_BYTES: u64 = 256 << 10;
/// Positions within which a repeated push id gets its first answer.
pub const PUSH_ID_WINDOW: u64 = 1_000_000;
/// Default size at which a log segment is sealed.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Proposals waiting for the writer; beyond this the answer is Busy.
pub const WRITER_QUEUE_MAX: usize = 4_096;
/// Nesting of a record's JSON.
pub const JSON_DEPTH_MAX: usize = 64;
/// Frames waiting for one log follower; beyond this it reads from the segments instead.
pub const FOLLOWER_QUEUE_MAX: usize = 256;
/// Encoded bytes of the last groups that the log keeps in memory for followers at its end; decoded they take three times
/// as much.
pub const FOLLOWER_BYTES_MAX: u64 = 8 << 20;

const _: () = assert!(FRAME_BYTES_MAX <= PROPOSAL_BYTES_MAX);
const _: () = assert!(PACK_BYTES_TARGET <= PACK_BYTES_MAX);
const _: () = assert!(BLOB_BYTES_MAX <= PACK_BYTES_MAX);
const _: () = assert!(SNAPSHOT_ENTRIES_MAX as u64 * 32 <= FRAME_BYTES_MAX / 2);
const _: () = assert!(PROPOSAL_BYTES_MAX <= SEGMENT_BYTES_DEFAULT * 2);
