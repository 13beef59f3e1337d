//! How a request carries its activity from the manager to the transport.

use rmcp::model::{ClientJsonRpcMessage, ClientRequest, GetExtensions};

use crate::registry::{Activity, Record};

/// The activity of a request, in the request's extensions.
///
/// Extensions are cloned freely, an activity is not: a clone of a ticket is spent. Managers stack, so a ticket holds
/// the ticket of the manager around it.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    activity: Option<Activity>,
    outer: Option<Box<Self>>,
}

impl Clone for Ticket {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Ticket {
    /// Puts an activity into a request; drops it at once with any other message.
    pub(crate) fn attach(message: &mut ClientJsonRpcMessage, activity: Activity) {
        if let ClientJsonRpcMessage::Request(request) = message {
            let extensions = request.request.extensions_mut();
            let outer = extensions.remove::<Self>().map(Box::new);
            extensions.insert(Self { activity: Some(activity), outer });
        }
    }

    /// Takes the activity of this session out of a request.
    pub(crate) fn detach(request: &mut ClientRequest, record: &Record) -> Option<Activity> {
        let extensions = request.extensions_mut();
        let mut ticket = extensions.remove::<Self>()?;
        if ticket.activity.as_ref().is_none_or(|activity| !std::ptr::eq(&*activity.record, record)) {
            extensions.insert(ticket);
            return None;
        }
        if let Some(outer) = ticket.outer.take() {
            extensions.insert(*outer);
        }
        ticket.activity
    }
}
