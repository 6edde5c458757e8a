//! Over ZeroMQ: a circusd, or an agent that has an `endpoint`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Call, ClientError, GATHERING, unix_time};
use crate::model::command::{Answer, Command, Outcome, Reply, Target};
use crate::model::spec::ZmqAddress;
use crate::wire;
use crate::zmq::{Broken, Dealer};

/// Puts one question, in Circus's words.
pub(super) async fn over_zmq(address: &ZmqAddress, call: &Call) -> Result<Value, ClientError> {
    let mut request = wire::circus::request(&call.command);
    if call.target != Target::Here {
        // A circusd would not look at whom it is meant for, and do it itself.
        let is_agent = ask(address, json!({"command": "version"}), call.patience).await?["status"] == "ok";
        if !is_agent {
            let why =
                format!("a circusd answers at {address}, which is one node: nodes are chosen where an agent is asked");
            return Err(ClientError::Usage(why));
        }
        wire::address(&mut request, &call.target);
        request["properties"]["timeout"] = json!(call.patience.as_secs_f64());
    }
    let patience = if call.target == Target::Here { call.patience } else { call.patience + GATHERING };
    let is_quit = matches!(call.command, Command::Quit { .. }) && call.target == Target::Here;
    match ask(address, request, patience).await {
        // It may be gone before the reply is out: that is what was asked for.
        Err(ClientError::Silent(_)) if is_quit => {
            Ok(wire::reply_json(&Outcome::Own(Reply::Done(Answer::Ok)), &Value::Null, unix_time()))
        }
        reply => Ok(wire::circus::understood(&call.command, reply?)),
    }
}

async fn ask(address: &ZmqAddress, mut request: Value, patience: Duration) -> Result<Value, ClientError> {
    let mut random = [0; 16];
    // Told apart from every other reply, should one ever come; where chance fails the process's number does.
    if getrandom::fill(&mut random).is_err() {
        random[..4].copy_from_slice(&std::process::id().to_ne_bytes());
    }
    let id = json!(format!("{:032x}", u128::from_ne_bytes(random)));
    request["id"] = id.clone();
    let broken = |broken: Broken| match broken {
        Broken::Unreached(error) => ClientError::Unreached(format!("nobody reached at {address}: {error}")),
        Broken::Ended(end) => ClientError::Silent(format!("no reply from {address}: {end}")),
    };
    let conversation = async {
        let mut dealer = Dealer::connect(address).await.map_err(broken)?;
        dealer.ask(&request.to_string()).map_err(broken)?;
        loop {
            let reply = dealer.next().await.map_err(broken)?;
            match serde_json::from_slice::<Value>(&reply) {
                // An error about what was no request has no id, and can only be about ours.
                Ok(reply) if reply["id"] == id || reply["id"].is_null() => return Ok(reply),
                Ok(_) => {}
                Err(error) => return Err(ClientError::Silent(format!("the reply from {address} is no JSON: {error}"))),
            }
        }
    };
    timeout(patience, conversation).await.unwrap_or_else(|_| {
        Err(ClientError::Silent(format!(
            "no reply from {address} within {} s; what was asked may still be done (--timeout waits longer)",
            patience.as_secs_f64()
        )))
    })
}
