//! A PUB: tells who have subscribed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::connection::{Budget, Connection, End, Share};
use super::listener::Listener;
use super::zmtp::{self, Kind, Said};
use super::{MAX_KEPT, MAX_QUEUE, MAX_QUEUED, MAX_TOPICS};

/// How many bytes are taken out of a subscriber's queue ahead of its reading.
const AHEAD: usize = 64 << 10;

/// A door that tells. Dropping it closes it at once; [`close`](Publisher::close) says all that was to be said.
#[derive(Debug)]
pub struct Publisher {
    hall: Arc<Hall>,
    open: watch::Sender<()>,
    listening: JoinHandle<()>,
}

/// Who listens.
#[derive(Debug)]
struct Hall {
    name: String,
    seats: Mutex<Seats>,
    budget: Budget,
    is_heard: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Seats {
    last: u64,
    taken: BTreeMap<u64, Seat>,
}

/// One subscriber, and what waits for it.
#[derive(Debug)]
struct Seat {
    from: String,
    topics: BTreeSet<Vec<u8>>,
    topic_bytes: usize,
    queue: VecDeque<Arc<[u8]>>,
    bytes: usize,
    share: Share,
    news: Arc<Notify>,
    /// How many messages it has lost.
    lost: u64,
}

impl Publisher {
    /// Begins to tell at a place.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(listener: Listener) -> Publisher {
        let hall = Arc::new(Hall {
            name: listener.name().to_owned(),
            seats: Mutex::default(),
            budget: Budget::new(MAX_KEPT),
            is_heard: watch::Sender::new(false),
        });
        let (open, closing) = watch::channel(());
        let listening = tokio::spawn({
            let hall = Arc::clone(&hall);
            async move {
                let mut over = closing.clone();
                let converse = |peer, from| converse(peer, from, Arc::clone(&hall), closing.clone());
                listener.serve(Kind::Pub, async move { while over.changed().await.is_ok() {} }, converse).await;
            }
        });
        Publisher { hall, open, listening }
    }

    /// Tells everybody who has subscribed to what `topic` begins with. Never waits: who is too far behind loses it.
    pub fn publish(&self, topic: &str, body: &str) {
        let mut message: Option<Arc<[u8]>> = None;
        for seat in self.hall.seats().taken.values_mut().filter(|seat| seat.wants(topic.as_bytes())) {
            let whole = || zmtp::message(&[topic.as_bytes(), body.as_bytes()]).into();
            seat.put(message.get_or_insert_with(whole), &self.hall.name);
        }
    }

    /// Whether anybody has subscribed to anything, now and whenever that changes.
    pub fn is_heard(&self) -> watch::Receiver<bool> {
        self.hall.is_heard.subscribe()
    }

    /// Ends it: what was published is still written, for a second at most.
    pub async fn close(self) {
        let Publisher { hall: _, open, listening } = self;
        drop(open);
        let _ = listening.await;
    }
}

impl Hall {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sit(self: &Arc<Hall>, from: &str) -> Place {
        let news = Arc::new(Notify::new());
        let seat = Seat {
            from: from.to_owned(),
            topics: BTreeSet::new(),
            topic_bytes: 0,
            queue: VecDeque::new(),
            bytes: 0,
            share: self.budget.share(),
            news: Arc::clone(&news),
            lost: 0,
        };
        let mut seats = self.seats();
        seats.last += 1;
        let id = seats.last;
        seats.taken.insert(id, seat);
        Place { hall: Arc::clone(self), id, news }
    }

    /// Says whether anybody listens, where that is new.
    fn count(&self, seats: &Seats) {
        let heard = seats.taken.values().any(|seat| !seat.topics.is_empty());
        self.is_heard.send_if_modified(|is| std::mem::replace(is, heard) != heard);
    }
}

impl Seat {
    fn wants(&self, topic: &[u8]) -> bool {
        !self.topics.is_empty() && (0..=topic.len()).any(|end| self.topics.contains(&topic[..end]))
    }

    fn put(&mut self, message: &Arc<[u8]>, door: &str) {
        let bytes = self.bytes + message.len();
        if self.queue.len() == MAX_QUEUE || bytes > MAX_QUEUED || !self.share.keeps(bytes) {
            if self.lost == 0 {
                tracing::warn!("{door}: {} reads too slowly, and loses messages", self.from);
            }
            self.lost += 1;
            return;
        }
        self.queue.push_back(Arc::clone(message));
        self.bytes = bytes;
        self.news.notify_one();
    }
}

/// A subscriber's own seat, free when this is dropped.
struct Place {
    hall: Arc<Hall>,
    id: u64,
    news: Arc<Notify>,
}

impl Place {
    fn with<T>(&self, then: impl FnOnce(&mut Seat) -> T) -> Option<T> {
        self.hall.seats().taken.get_mut(&self.id).map(then)
    }

    fn subscribe(&self, topic: Vec<u8>) -> Result<(), End> {
        let mut seats = self.hall.seats();
        if let Some(seat) = seats.taken.get_mut(&self.id) {
            // With what each one costs besides its bytes.
            let bytes = topic.len() + 64;
            if seat.topics.insert(topic) {
                seat.topic_bytes += bytes;
            }
            if seat.topic_bytes > MAX_TOPICS {
                return Err(End::Topics);
            }
        }
        self.hall.count(&seats);
        Ok(())
    }

    fn cancel(&self, topic: &[u8]) {
        let mut seats = self.hall.seats();
        if let Some(seat) = seats.taken.get_mut(&self.id)
            && seat.topics.remove(topic)
        {
            seat.topic_bytes -= topic.len() + 64;
        }
        self.hall.count(&seats);
    }

    /// What is to be told next.
    fn next(&self) -> Option<Arc<[u8]>> {
        self.with(|seat| {
            let message = seat.queue.pop_front()?;
            seat.bytes -= message.len();
            seat.share.keeps(seat.bytes);
            Some(message)
        })?
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seats = self.hall.seats();
        let lost = seats.taken.remove(&self.id).filter(|seat| seat.lost > 0);
        self.hall.count(&seats);
        drop(seats);
        if let Some(Seat { from, lost, .. }) = lost {
            tracing::info!("{}: {from} has left, and had lost {lost} messages", self.hall.name);
        }
    }
}

async fn converse(
    mut peer: Connection,
    from: String,
    hall: Arc<Hall>,
    mut closing: watch::Receiver<()>,
) -> Result<(), End> {
    peer.meet().await?;
    let place = hall.sit(&from);
    loop {
        while let Some(said) = peer.hear()? {
            match said {
                Said::Subscribe(topic) => place.subscribe(topic)?,
                Said::Cancel(topic) => place.cancel(&topic),
                // Who does not read what it asked for is not told more of it.
                Said::Ping(context) if peer.unread() < AHEAD => peer.say(&zmtp::pong(&context))?,
                Said::Ping(_) | Said::Ready | Said::Message(_) => {}
            }
        }
        while peer.unread() < AHEAD
            && let Some(message) = place.next()
        {
            peer.say(&message)?;
        }
        let news = Arc::clone(&place.news);
        tokio::select! {
            moved = peer.go_on(true) => moved?,
            () = news.notified(), if peer.unread() < AHEAD => {}
            _ = closing.changed() => break,
        }
    }
    while let Some(message) = place.next() {
        peer.say(&message)?;
    }
    drop(place);
    peer.part().await;
    Ok(())
}
