"""The guide's examples, as the API document shows them: one place, so that they can be run by a test."""

from __future__ import annotations

from typing import Any

NOTIFICATION: dict[str, Any] = {
    "titre": "alerte_meteo",
    "message": "Tempête prévue",
    "utilisateurs": [
        {"id": "u1", "nom": "Jean Dupont", "email": "jean.dupont@example.org"},
        {
            "id": "u2",
            "nom": "Marie Durand",
            "telephone": "+33 6 12 34 56 78",
            "preferences": {"canal_prefere": "sms"},
        },
    ],
}
ACCEPTED: dict[str, Any] = {
    "success": True,
    "message": "Notification météorologique mise en file d'attente",
    "type": "meteo",
    "task_id": "019a7c1e-6f0a-7c3e-9b1d-2f6c0a4d8e11",
    "status": "pending",
}
TASK: dict[str, Any] = {
    "success": True,
    "task": {
        "id": ACCEPTED["task_id"],
        "type": "meteo",
        "status": "completed",
        "priority": "HAUTE",
        "titre": "alerte_meteo",
        "attempts": 1,
        "run": 1,
        "progress": {"sent": 2, "failed": 0, "skipped": 0, "total": 2},
        "created_at_iso": "2025-11-13T10:00:00.000Z",
        "started_at_iso": "2025-11-13T10:00:01.000Z",
        "completed_at_iso": "2025-11-13T10:00:02.000Z",
        "next_attempt_at_iso": None,
        "planifiee_a": None,
        "expire_a": None,
        "node": "a1",
        "error": None,
        "result": {
            "success": True,
            "type": "meteo",
            "utilisateurs_notifies": 2,
            "utilisateurs_total": 2,
            "non_joints": 0,
            "ignores": 0,
            "doublons": 0,
        },
        "message": "Tempête prévue",
        "webhook_url": None,
    },
}
CLEAR: dict[str, Any] = {"hours": 24}
CLEARED: dict[str, Any] = {"success": True, "message": "3 tâches supprimées", "removed": 3}
