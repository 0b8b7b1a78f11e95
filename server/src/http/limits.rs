//! Admission: how many heavy requests are worked on, how many may wait, how often one client may ask.
//!
//! Invariants: a refusal comes before the first byte of an answer and names the limit and when to come back; what waits
//! is bounded (F13); a place is held until the answer's last byte is written; loopback clients are not rated unless
//! configured, and the stock client's four parallel uploads never meet a limit on an idle server.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hyper::Method;
use tokio::time::Instant;

use crate::{
    http::gate::{Gate, Place, SharedGate},
    hub::{HubError, Limits},
};

/// The places of one server.
pub struct Admission {
    fetches: Gate,
    pushes: Gate,
    uploads: Gate,
    questions: Gate,
    objects: Gate,
    arrivals: SharedGate,
    rates: Option<Rates>,
}

impl Admission {
    /// As `limits` say.
    pub fn new(limits: &Limits) -> Admission {
        let shared =
            |name, places, small| Gate::new(name, (places, small), limits.waiting_max, limits.waiting_time_max);
        let gate = |name, places| shared(name, places, 1);
        let small = limits.small_uploads_per_place;
        Admission {
            fetches: gate("fetch", limits.fetches_max),
            pushes: shared("push", limits.pushes_max, small),
            uploads: shared("push/objects", limits.object_uploads_max, small),
            questions: gate("index", limits.questions_max),
            objects: gate("objects", limits.object_reads_max),
            arrivals: SharedGate::new(gate("upload by address", limits.arrivals_max), limits.arrivals_per_repo_max),
            rates: (limits.requests_per_second > 0).then(|| Rates::new(limits)),
        }
    }

    /// A place for a request, if its route is one that needs it.
    pub async fn enter(&self, entering: Entering<'_>) -> Result<Option<Place>, HubError> {
        let Entering { method, route, path, body } = entering;
        let gate = match route {
            BLOB | PACK if method == Method::PUT => {
                return self.arrivals.enter(repository(path)).await.map(Some);
            }
            BLOB | PACK => &self.objects,
            // Its body only names what it will work on.
            UNPACK => return self.pushes.enter(false).await.map(Some),
            "/{owner}/{slug}/fetch" | "/{owner}/{slug}/fetch/mpack" | "/{owner}/{slug}/fetch/presign" => &self.fetches,
            "/{owner}/{slug}/push" => &self.pushes,
            "/{owner}/{slug}/push/objects" => &self.uploads,
            "/{owner}/{slug}/filter-objects"
            | "/{owner}/{slug}/presign"
            | "/{owner}/{slug}/negotiate"
            | "/{owner}/{slug}/push/mpack-presign"
            | "/{owner}/{slug}/releases"
            | "/api/v1/repos" => &self.questions,
            _ => return Ok(None),
        };
        gate.enter(body.is_some_and(|bytes| bytes <= SMALL_BODY_BYTES)).await.map(Some)
    }

    /// Counts a request of `client`; `Busy` when it asks too often.
    pub fn rate(&self, client: IpAddr) -> Result<(), HubError> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.count(client, Instant::now()))
    }
}

/// A token bucket per client address, in a bounded table.
struct Rates {
    per_second: f64,
    burst: f64,
    loopback: bool,
    clients: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    fn new(limits: &Limits) -> Rates {
        Rates {
            per_second: f64::from(limits.requests_per_second),
            burst: f64::from(limits.requests_burst.max(1)),
            loopback: limits.rate_limit_loopback,
            clients: Mutex::new(HashMap::new()),
        }
    }

    fn count(&self, client: IpAddr, now: Instant) -> Result<(), HubError> {
        let client = network(client.to_canonical());
        if client.is_loopback() && !self.loopback {
            return Ok(());
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&client) {
            self.forget_the_modest(&mut clients, now);
        }
        let bucket = clients.entry(client).or_insert(Bucket { left: self.burst, at: now });
        *bucket = Bucket { left: self.refilled(*bucket, now), at: now };
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let retry_after = Duration::from_secs_f64(((1.0 - bucket.left) / self.per_second).min(60.0));
        let message = format!("more than {} requests per second from one address, which is the limit", self.per_second);
        Err(HubError::Busy { retry_after, message })
    }

    /// Makes room: whoever is full again need not be remembered, and then those who asked for least.
    fn forget_the_modest(&self, clients: &mut HashMap<IpAddr, Bucket>, now: Instant) {
        let mut left: Vec<f64> = clients.values().map(|bucket| self.refilled(*bucket, now)).collect();
        left.sort_by(f64::total_cmp);
        let median = left.get(left.len() / 2).copied().unwrap_or(self.burst);
        clients.retain(|_, bucket| self.refilled(*bucket, now) < median.min(self.burst));
    }

    fn refilled(&self, bucket: Bucket, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + elapsed * self.per_second).min(self.burst)
    }
}

/// Who counts as one client: an IPv4 address, or an IPv6 network of 64 bits, whose owner has all addresses in it.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::from((u128::from(ip) >> 64 << 64).to_be_bytes()),
        client => client,
    }
}

/// A request that wants to be worked on.
#[derive(Clone, Copy)]
pub struct Entering<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The pattern of its route.
    pub route: &'a str,
    /// Its path.
    pub path: &'a str,
    /// The bytes it says that its body has.
    pub body: Option<u64>,
}

/// The part of a path that names the repository.
fn repository(path: &str) -> &str {
    let end = path.match_indices('/').nth(2).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

const BLOB: &str = "/{owner}/{slug}/objects/{id}";
const PACK: &str = "/{owner}/{slug}/mpack/{id}";
const UNPACK: &str = "/{owner}/{slug}/push/unpack-mpack";
/// An upload up to this is small: what it takes of memory is no more than a connection's buffers.
const SMALL_BODY_BYTES: u64 = 256 << 10;
/// Addresses that the rate limit remembers.
const CLIENTS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Arc;

    use super::*;

    impl Admission {
        async fn post(&self, route: &str, body: Option<u64>) -> Result<Option<Place>, HubError> {
            let route = format!("/{{owner}}/{{slug}}/{route}");
            self.enter(Entering { method: &Method::POST, route: &route, path: "/a/b/x", body }).await
        }

        async fn put(&self, route: &str, path: &str) -> Result<Option<Place>, HubError> {
            self.enter(Entering { method: &Method::PUT, route, path, body: None }).await
        }
    }

    fn limits() -> Limits {
        Limits {
            pushes_max: 1,
            small_uploads_per_place: 2,
            waiting_max: 1,
            requests_per_second: 10,
            requests_burst: 3,
            ..Limits::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_refused_at_once_and_a_waiting_request_after_its_time() {
        let admission = Arc::new(Admission::new(&limits()));
        let place = admission.post("push", None).await.unwrap().expect("a push needs a place");
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.post("push", None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(matches!(admission.post("push", None).await, Err(HubError::Busy { .. })));
        assert!(matches!(waiting.await.unwrap(), Err(HubError::Unavailable(_))));
        drop(place);
        assert!(admission.post("push", None).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn small_uploads_share_a_place_and_a_large_one_has_one_for_itself() {
        let admission = Admission::new(&limits());
        let push = |bytes| admission.post("push", Some(bytes));
        let small = (push(10).await.unwrap(), push(SMALL_BODY_BYTES).await.unwrap());
        assert!(push(10).await.is_err(), "a third one");
        drop(small);
        let large = push(SMALL_BODY_BYTES + 1).await.unwrap();
        assert!(push(10).await.is_err(), "beside a large one");
        drop(large);
        let _small = push(10).await.unwrap();
        assert!(push(SMALL_BODY_BYTES + 1).await.is_err(), "a large one beside a small one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unpack_takes_a_whole_place_however_small_its_body_is() {
        let admission = Admission::new(&limits());
        let _unpack = admission.post("push/unpack-mpack", Some(10)).await.unwrap().expect("a place");
        assert!(admission.post("push/unpack-mpack", Some(10)).await.is_err());
        assert!(admission.post("push", Some(10)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_uploads_by_address_keep_nobody_from_reading_and_those_of_one_repository_leave_places_for_others() {
        let limits = Limits { arrivals_max: 3, arrivals_per_repo_max: 2, object_reads_max: 1, ..limits() };
        let admission = Admission::new(&limits);
        let blob = admission.put(BLOB, "/a/b/objects/1").await.unwrap();
        let _pack = admission.put(PACK, "/a/b/mpack/2").await.unwrap();
        assert!(admission.put(BLOB, "/a/b/objects/3").await.is_err(), "the repository's share");
        let _other = admission.put(BLOB, "/a/c/objects/3").await.unwrap();
        assert!(admission.put(BLOB, "/a/d/objects/3").await.is_err(), "all places");
        let get = Entering { method: &Method::GET, route: BLOB, path: "/a/b/objects/1", body: None };
        assert!(admission.enter(get).await.unwrap().is_some(), "reads have places of their own");
        drop(blob);
        assert!(admission.put(BLOB, "/a/b/objects/3").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn heavy_routes_need_a_place_and_light_ones_do_not() {
        let admission = Admission::new(&limits());
        let heavy = [
            "fetch",
            "fetch/mpack",
            "push",
            "push/objects",
            "filter-objects",
            "presign",
            "negotiate",
            "releases",
            "objects/{id}",
        ];
        for (routes, needed) in [(&heavy[..], true), (&["refs", "tags"], false)] {
            for route in routes {
                let place = admission.post(route, None).await.unwrap();
                assert_eq!(place.is_some(), needed, "{route}");
            }
        }
    }

    #[test]
    fn what_waits_for_slow_clients_leaves_threads_for_the_others() {
        let limits = Limits::default();
        assert!(limits.fetches_max + limits.object_reads_max < limits.blocking_jobs_max);
    }

    #[test]
    fn one_answer_of_the_largest_filter_is_one_that_the_stock_client_takes() {
        let limits = Limits::default();
        assert!((limits.filter_ids_max as u64) * 66 + 32 <= limits.response_bytes_max);
    }

    #[tokio::test(start_paused = true)]
    async fn the_addresses_of_one_ipv6_network_are_one_client_and_a_flood_of_them_forgets_nobody_who_asks_much() {
        let admission = Admission::new(&limits());
        let address = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        for host in 0..3 {
            admission.rate(address(0, host)).unwrap();
        }
        assert!(admission.rate(address(0, 9)).is_err());
        for client in 0..u32::try_from(CLIENTS_MAX).unwrap() + 10 {
            admission.rate(IpAddr::from(client.to_be_bytes().map(|byte| byte | 1))).unwrap_or_default();
            admission.rate(IpAddr::from((0x0a00_0000 + client).to_be_bytes())).unwrap_or_default();
        }
        assert!(admission.rate(address(0, 10)).is_err(), "still the same second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_too_often_is_told_when_to_come_back_and_others_go_on() {
        let admission = Admission::new(&limits());
        let client = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..3 {
            admission.rate(client).unwrap();
        }
        let Err(HubError::Busy { retry_after, .. }) = admission.rate(client) else { panic!("not refused") };
        assert!(retry_after <= Duration::from_millis(100), "{retry_after:?}");
        admission.rate(IpAddr::from([192, 0, 2, 2])).unwrap();
        tokio::time::advance(Duration::from_millis(100)).await;
        admission.rate(client).unwrap();
    }

    #[tokio::test]
    async fn loopback_is_not_rated_unless_configured() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let free = Admission::new(&limits());
        assert!((0..100).all(|_| free.rate(loopback).is_ok()));
        let rated = Admission::new(&Limits { rate_limit_loopback: true, ..limits() });
        assert!((0..100).any(|_| rated.rate(loopback).is_err()));
    }
}
