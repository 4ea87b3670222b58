"""Commands for operators, who speak to a Cloud API anywhere through `iotistica.client`."""
