//! The other side: asks a ROUTER, listens to a PUB.

use std::io;

use tokio::net::{TcpStream, UnixStream};

use super::connection::{Budget, Connection, End};
use super::listener::{Duplex, prepare};
use super::zmtp::{self, Kind, Said};
use crate::model::spec::ZmqAddress;

/// The longest reply taken from who was asked, in bytes.
const MAX_REPLY: usize = 64 << 20;

/// Why there is nobody to talk to.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Nobody was reached.
    #[error("{0}")]
    Unreached(io::Error),
    /// Somebody was, and the conversation ended.
    #[error(transparent)]
    Ended(#[from] End),
}

/// A DEALER, connected.
pub struct Dealer(Connection);

impl Dealer {
    /// Connects, and waits until the other side has introduced itself.
    pub async fn connect(address: &ZmqAddress) -> Result<Dealer, Broken> {
        connect(address, Kind::Dealer).await.map(Dealer)
    }

    /// Puts a question.
    pub fn ask(&mut self, text: &str) -> Result<(), Broken> {
        Ok(self.0.say(&zmtp::message(&[text.as_bytes()]))?)
    }

    /// What is answered next, of whatever was asked.
    pub async fn next(&mut self) -> Result<Vec<u8>, Broken> {
        let mut frames = message(&mut self.0).await?;
        Ok(frames.pop().unwrap_or_default())
    }
}

/// A SUB, connected.
pub struct Subscriber(Connection);

impl Subscriber {
    /// Connects, waits until the other side has introduced itself, and subscribes to what begins with `topic`.
    pub async fn connect(address: &ZmqAddress, topic: &str) -> Result<Subscriber, Broken> {
        let mut peer = connect(address, Kind::Sub).await?;
        peer.say(&zmtp::subscribe(topic.as_bytes()))?;
        Ok(Subscriber(peer))
    }

    /// What is told next: a topic and what there is to say about it.
    pub async fn next(&mut self) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        loop {
            if let Ok([topic, body]) = <[_; 2]>::try_from(message(&mut self.0).await?) {
                return Ok((topic, body));
            }
        }
    }
}

async fn connect(address: &ZmqAddress, own: Kind) -> Result<Connection, Broken> {
    let stream: Box<dyn Duplex> = match address.from_here() {
        ZmqAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host, port)).await.map_err(Broken::Unreached)?;
            prepare(&stream);
            Box::new(stream)
        }
        ZmqAddress::Ipc(path) => Box::new(UnixStream::connect(path).await.map_err(Broken::Unreached)?),
    };
    let mut peer = Connection::new(stream, own, &Budget::new(usize::MAX));
    peer.trust(MAX_REPLY);
    peer.meet().await?;
    Ok(peer)
}

async fn message(peer: &mut Connection) -> Result<Vec<Vec<u8>>, Broken> {
    loop {
        match peer.hear()? {
            Some(Said::Message(frames)) => return Ok(frames),
            Some(Said::Ping(context)) => peer.say(&zmtp::pong(&context))?,
            Some(Said::Ready | Said::Subscribe(_) | Said::Cancel(_)) => {}
            None => peer.go_on(true).await?,
        }
    }
}
