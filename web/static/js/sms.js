// sms.js: how many parts a text message takes. GSM 03.38 where all its characters are in it, else UCS-2; a message of
// several parts loses room to its header.
const BASIC = new Set("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà");
const EXTENDED = new Set("^{}\\[~]|€\f"); // two places each

export function smsParts(text) {
  let septets = 0;
  const odd = new Set();
  for (const c of text) {
    if (BASIC.has(c)) septets += 1;
    else if (EXTENDED.has(c)) septets += 2;
    else odd.add(c);
  }
  if (odd.size === 0) return { parts: septets <= 160 ? Math.min(1, septets) : Math.ceil(septets / 153), wide: false, odd: [] };
  return { parts: text.length <= 70 ? 1 : Math.ceil(text.length / 67), wide: true, odd: [...odd] };
}
