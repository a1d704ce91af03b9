// page-send.js: /admin/send. No stream here: nothing on this page changes by itself.
import { mountShell } from "./shell.js";
import { mount } from "./panels/send.js";

mountShell();
mount(document.getElementById("app"));
