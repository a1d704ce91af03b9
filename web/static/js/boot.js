// boot.js: what the server handed to this page (language, role, statuses, types, limits, texts).
export const boot = JSON.parse(document.getElementById("boot").textContent);
