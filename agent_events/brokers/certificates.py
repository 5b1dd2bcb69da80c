"""The certificate by which a process says who it is, to a broker that asks for one."""

import ssl

from agent_events.conf import Settings

NO_PASSPHRASE = ""
"""Given in place of none, with which OpenSSL would ask for one at the terminal, and wait."""


def fault_of(settings: Settings) -> str:
    """What is wrong with BROKER_CERT_FILE and BROKER_KEY_FILE, in words; empty: nothing.

    Reads the files. (A connection to NATS, one to Redis and the system check all ask this.)
    """
    certificate, key = settings.broker_cert_file, settings.broker_key_file
    if not certificate and not key:
        return ""
    if not certificate or not key:
        given, lacking = "BROKER_CERT_FILE", "BROKER_KEY_FILE"
        if key:
            given, lacking = lacking, given
        return f'AGENT_EVENTS["{given}"] is set without AGENT_EVENTS["{lacking}"]'
    try:
        own(settings, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return (
            'AGENT_EVENTS["BROKER_CERT_FILE"] and AGENT_EVENTS["BROKER_KEY_FILE"] name no '
            f"certificate and its key, without a passphrase, in PEM form ({why})"
        )
    return ""


def own(settings: Settings, context: ssl.SSLContext) -> None:
    """Has the context show our certificate to whoever asks. Raises OSError, ValueError."""
    context.load_cert_chain(settings.broker_cert_file, settings.broker_key_file, NO_PASSPHRASE)
