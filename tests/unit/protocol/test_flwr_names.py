"""flwr's private names, by the module of ours that leans on them: a release that drops one fails here, by name."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import flwr
import moonflower
import pytest
from flwr.supercore.version import package_version

HERE = Path(moonflower.__file__).parent

# our file -> flwr's module -> names; "Class(a, b)" are parameters that we pass, "Class.name" what we call on it.
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "client/node/fleet.py": {
        "flwr.app": ("Error", "Message(reply_to)"),
        "flwr.common.constant": (
            "HEARTBEAT_DEFAULT_INTERVAL",
            "ErrorCode.INVALID_FAB",
            "ErrorCode.CLIENT_APP_CRASHED",
            "ErrorCode.CLIENT_APP_RAISED_EXCEPTION",
            "ErrorCode.MESSAGE_UNAVAILABLE",
        ),
        "flwr.common.serde": ("message_from_proto", "message_to_proto"),
        "flwr.proto.fleet_pb2": (
            "ActivateNodeRequest.public_key",
            "ActivateNodeRequest.heartbeat_interval",
            "ActivateNodeResponse.node_id",
            "DeactivateNodeRequest.node_id",
            "PullMessagesRequest.node",
            "PullMessagesResponse.messages_list",
            "PullMessagesResponse.message_object_trees",
            "PushMessagesRequest.node",
            "PushMessagesRequest.messages_list",
            "PushMessagesRequest.message_object_trees",
            "PushMessagesRequest.clientapp_runtime_list",
            "PushMessagesResponse.objects_to_push",
            "PushMessagesResponse.session_id",
        ),
        "flwr.proto.heartbeat_pb2": (
            "SendNodeHeartbeatRequest.node",
            "SendNodeHeartbeatRequest.heartbeat_interval",
            "SendNodeHeartbeatResponse.success",
        ),
        "flwr.proto.message_pb2": (
            "ConfirmMessageReceivedRequest.node",
            "ConfirmMessageReceivedRequest.run_id",
            "ConfirmMessageReceivedRequest.message_object_id",
            "Message.metadata",
            "ObjectTree.object_id",
            "PullObjectRequest.node",
            "PullObjectRequest.run_id",
            "PullObjectRequest.object_id",
            "PullObjectResponse.object_found",
            "PullObjectResponse.object_available",
            "PullObjectResponse.object_content",
            "PushObjectRequest.node",
            "PushObjectRequest.run_id",
            "PushObjectRequest.session_id",
            "PushObjectRequest.object_id",
            "PushObjectRequest.object_content",
            "PushObjectResponse.stored",
        ),
        "flwr.proto.node_pb2": ("Node.node_id",),
        "flwr.proto.run_pb2": ("GetRunRequest.node", "GetRunRequest.run_id", "GetRunResponse.run", "Run.fab_hash"),
        "flwr.supercore.inflatable.inflatable_object": (
            "get_object_tree",
            "iterate_object_tree",
            "InflatableObject.object_id",
            "InflatableObject.deflate",
        ),
        "flwr.supercore.interceptors.http.runtime_version": (
            "RuntimeVersionHttpInterceptor(component_name)",
            "RuntimeVersionHttpInterceptor.intercept",
        ),
        "flwr.supercore.primitives.asymmetric": ("public_key_to_bytes",),
        "flwr.supercore.protobuf.client": (
            "ProtobufRequestContext(rpc_method, message, request)",  # a frozen dataclass: dataclasses.replace
            "ProtobufClient.close",
        ),
        "flwr.supernode.fleet_http_client": (
            "FleetHttpClient(base_url, interceptors, verify)",
            "FleetHttpClient.ActivateNode",
            "FleetHttpClient.DeactivateNode",
            "FleetHttpClient.SendNodeHeartbeat",
            "FleetHttpClient.PullMessages",
            "FleetHttpClient.PushMessages",
            "FleetHttpClient.GetRun",
            "FleetHttpClient.PullObject",
            "FleetHttpClient.PushObject",
            "FleetHttpClient.ConfirmMessageReceived",
        ),
        "flwr.supernode.node_auth_http_interceptor": (
            "NodeAuthHttpInterceptor(private_key, public_key)",
            "NodeAuthHttpInterceptor.intercept",
        ),
    },
    "client/node/worker.py": {
        "flwr.app": ("Context(run_id, node_id, node_config, state, run_config)", "Message", "RecordDict"),
        "flwr.app.message": ("remove_content_from_message(message)",),
        "flwr.common.serde": ("message_to_proto",),
        "flwr.supercore.inflatable.inflatable_object": (
            "get_all_nested_objects",
            "get_object_tree",
            "no_object_id_recompute",
        ),
        "flwr.supercore.inflatable.inflatable_utils": ("inflate_object_from_contents(object_id, object_contents)",),
        "flwr.supercore.task_identity": ("TaskIdentity",),
    },
    "server/door/flower/superlink.py": {
        "flwr.common.constant": ("NOOP_ACCOUNT_NAME", "NOOP_FLWR_AID"),
        "flwr.common.serde": ("fab_to_proto", "user_config_to_proto"),
        "flwr.proto.control_pb2": (
            "StartRunRequest.fab",
            "StartRunRequest.override_config",
            "StartRunResponse.run_id",
        ),
        "flwr.supercore.auth.typing": ("AccountInfo(flwr_aid, account_name)",),
        "flwr.supercore.error": ("http_error_translator",),
        "flwr.supercore.fab": ("Fab(hash_str, content, verifications)",),
        "flwr.supercore.protobuf.translation": ("ProtobufTranslationMiddleware",),
        "flwr.superlink.main": ("create_app(config, superlink_lifespan_class)",),
        "flwr.superlink.cli.flower_superlink": (
            "_parse_superlink_lifespan_config",
            "SuperLinkLifespan(config, state_factory)",
            "SuperLinkLifespan._start_superexec_if_needed",
        ),
        "flwr.superlink.config_loader": ("SuperLinkLifespanConfig(enable_supernode_auth, fleet_api_type)",),
        "flwr.superlink.routers.fleet.node_auth": ("NodeAuthMiddleware",),
        "flwr.superlink.servicer.control": ("control_handlers.start_run",),
        "flwr.superlink.servicer.control.control_handlers": ("start_run(request, account, state, fleet_api_type)",),
        "flwr.server.superlink.linkstate": (
            "LinkState.create_node(owner_aid, owner_name, public_key, heartbeat_interval)",
            "LinkState.deactivate_node(node_id)",
            "LinkState.get_node_id_by_public_key(public_key)",
            "LinkState.get_node_info(statuses)",
            "LinkState.get_run_info(run_ids)",
            "LinkState.stop_run(run_id)",
        ),
    },
    "server/door/flower/hold.py": {
        "flwr.proto.fleet_pb2": ("PullMessagesRequest.node",),
        "flwr.proto.message_pb2": (
            "PullObjectResponse.object_found",
            "PullObjectResponse.object_available",
        ),
        "flwr.proto.runtime_pb2": ("PushAppMessagesRequest.messages_list",),
    },
    "server/door/flower/replies.py": {
        "flwr.app": (
            "Error(code, reason)",
            "Message",
            "Metadata(run_id, message_id, reply_to_message_id)",
            "RecordDict",
        ),
        "flwr.app.message": ("make_message(metadata, error)",),
        "flwr.common.constant": ("ErrorCode.MESSAGE_UNAVAILABLE",),
        "flwr.proto.message_pb2": (
            "ConfirmMessageReceivedRequest.message_object_id",
            "PullObjectRequest.object_id",
            "PullObjectResponse.object_content",
        ),
        "flwr.proto.runtime_pb2": (
            "PullAppMessagesRequest.message_ids",
            "PullAppMessagesResponse.messages_list",
            "PullAppMessagesResponse.message_object_trees",
        ),
        "flwr.supercore.inflatable.inflatable_object": ("iterate_object_tree",),
        "flwr.supercore.inflatable.inflatable_utils": ("inflate_object_from_contents(object_id, object_contents)",),
        "flwr.superlink.grid.http_grid": ("HttpGrid._runtime_client", "HttpGrid.run"),
        "flwr.supercore.runtime": (
            "RuntimeHttpClient.PullMessages",
            "RuntimeHttpClient.PullObject",
            "RuntimeHttpClient.ConfirmMessageReceived",
        ),
    },
    "server/live.py": {
        "flwr.app": ("Context(run_config)",),
        "flwr.serverapp": ("Grid.get_nodes", "Grid.push_messages", "Grid.pull_messages", "ServerApp.main"),
        "flwr.proto.node_pb2": (
            "NodeInfo.node_id",
            "NodeInfo.public_key",
            "NodeInfo.status",
            "NodeInfo.last_activated_at",
        ),
    },
    "federation/grid.py": {
        "flwr.app": ("Context(run_id, node_id, node_config, state, run_config)", "Message", "RecordDict"),
        "flwr.clientapp": ("ClientApp",),
        "flwr.serverapp": ("Grid", "ServerApp"),
        "flwr.supercore.run": ("Run.create_empty(run_id)",),
        "flwr.supercore.task_identity": ("TaskIdentity",),
    },
}

ROWS = [(ours, theirs, name) for ours, modules in NAMES.items() for theirs, names in modules.items() for name in names]


@pytest.mark.parametrize(("ours", "theirs", "name"), ROWS)
def test_flwr_still_has(ours: str, theirs: str, name: str) -> None:
    gone = f"flwr {package_version} no longer has {theirs}: {name}; {ours} needs a look"
    path, _, rest = name.partition("(")
    try:
        found = import_module(theirs)
        for part in path.split("."):
            fields = getattr(found, "DESCRIPTOR", None)
            if hasattr(fields, "fields_by_name") and part in fields.fields_by_name:  # a protobuf message
                return
            found = getattr(found, part)
    except (ImportError, AttributeError):
        pytest.fail(gone)
    if rest:
        parameters = inspect.signature(found).parameters  # type: ignore[arg-type]
        wanted = [one.strip() for one in rest.rstrip(")").split(",")]
        assert set(wanted) <= set(parameters) or path == "Message", gone


@pytest.mark.parametrize("ours", sorted(NAMES))
def test_every_import_from_flwr_is_listed(ours: str) -> None:
    text = (HERE / ours).read_text(encoding="utf-8")
    found = re.findall(r"from (flwr[\w.]*) import (?:\(([^)]*)\)|([^\n]*))", text)
    assert found
    for theirs, many, few in found:
        names = {re.split(r"\s+as\s+", one.strip())[0] for one in (many or few).split(",") if one.strip()}
        listed = {re.split(r"[.(]", name)[0] for name in NAMES[ours].get(theirs, ())}
        assert names <= listed, f"{ours} imports {sorted(names - listed)} from {theirs}: add it to NAMES"


def test_what_is_not_an_import() -> None:
    """A private attribute, a property of a metaclass, and a field that has no public setter."""
    import httpx
    from flwr.app import Error, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode.fleet_http_client import FleetHttpClient

    client = FleetHttpClient("http://127.0.0.1:1")
    assert isinstance(client._client, httpx.Client), "client/node/fleet.py sets follow_redirects on it"
    client._client.follow_redirects = False
    client.close()
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(RecordDict(), 1, "query")
    message.metadata.__dict__["_message_id"] = "x"
    assert message.metadata.message_id == "x"
    assert Message(Error(8, ""), reply_to=message).metadata.reply_to_message_id == "x"
    assert flwr.__version__


def test_what_the_superlink_looks_like_inside() -> None:
    """Attributes and environment that superlink.py leans on, and the middlewares that it leaves in place."""
    from flwr.common.constant import ErrorCode
    from moonflower.server import exchange
    from moonflower.server.door.flower import superlink

    flower = superlink.SuperLink(1)
    assert flower.app.state.superlink_lifespan.superexec_process is None
    assert len(flower.app.user_middleware) == len(superlink.NEEDED) + 1
    assert flower._state.get_node_id_by_public_key(b"nobody's") is None
    assert int(ErrorCode.INVALID_FAB) == exchange.INVALID_FAB
    source = inspect.getsource(import_module("flwr.supercore.superexec.run_superexec"))
    assert "FLWR_SUPEREXEC_TASK_POLL_INTERVAL" in source or "TASK_POLL_INTERVAL" in source
