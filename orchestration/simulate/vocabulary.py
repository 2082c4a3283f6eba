"""The words of the simulated shop: its taxonomy, and what its items are made of and look like.

Every word here stands for something latent: a leaf category, a style, a colour, a material, a brand. So a text
encoder that reads a title or a description can recover part of what drives the simulated users.
"""

from __future__ import annotations

from dataclasses import dataclass

STYLES = {
    "minimalist": "Clean lines and nothing superfluous",
    "vintage": "A nostalgic look borrowed from another decade",
    "rugged": "Built tough for rough use",
    "elegant": "Refined details for special occasions",
    "playful": "Cheerful shapes that bring a smile",
    "compact": "Folds away small and weighs next to nothing",
    "professional": "Precise enough for daily work by experts",
    "eco-friendly": "Recycled, repairable and kind to nature",
}
COLOURS = (
    "black",
    "white",
    "red",
    "navy blue",
    "forest green",
    "mustard yellow",
    "grey",
    "pink",
    "beige",
    "turquoise",
)
TIERS = {
    "budget": ("An affordable choice", 0.6),
    "classic": ("A dependable choice", 1.0),
    "premium": ("A luxurious choice", 1.9),
}
BRAND_STEMS = ("Nor", "Tal", "Vel", "Kas", "Ori", "Bru", "Zem", "Lun")
BRAND_ENDINGS = ("vik", "mora", "dane", "quill", "stead", "ello")
MODELS = (
    "Alder", "Birch", "Comet", "Delta", "Ember", "Fjord", "Grove", "Harbour", "Iris", "Juniper", "Kestrel", "Lagoon",
    "Meadow", "Nimbus", "Opal", "Pebble", "Quartz", "Raven", "Summit", "Tundra", "Umbra", "Vista", "Willow", "Zephyr",
)  # fmt: skip
MATERIALS = {
    "Outdoor": ("ripstop nylon", "aluminium", "merino wool", "waxed canvas", "carbon fibre"),
    "Kitchen": ("stainless steel", "cast iron", "borosilicate glass", "bamboo", "glazed ceramic"),
    "Beauty": ("shea butter", "aloe vera", "rose oil", "charcoal", "vitamin C"),
    "Toys": ("beech wood", "soft plush", "recycled plastic", "thick cardboard", "silicone"),
    "Electronics": ("anodised metal", "matte polymer", "tempered glass", "woven fabric", "magnesium alloy"),
    "Fashion": ("organic cotton", "linen", "suede leather", "denim", "cashmere"),
    "Garden": ("terracotta", "galvanised steel", "cedar wood", "natural rubber", "willow wicker"),
    "Sports": ("neoprene", "elastane mesh", "laminated foam", "graphite", "vulcanised rubber"),
}
# department > category > leaf | noun | typical price | what such an item is described by
_TAXONOMY = """
Outdoor > Camping > Tents | tent | 180 | waterproof flysheet; freestanding poles; ventilated porch
Outdoor > Camping > Sleeping Bags | sleeping bag | 95 | insulated hood; two-way zip; stuff sack
Outdoor > Camping > Camp Stoves | camping stove | 55 | piezo ignition; wind shield; gas cartridge
Outdoor > Hiking > Backpacks | hiking backpack | 110 | padded hip belt; rain cover; hydration sleeve
Outdoor > Hiking > Hiking Boots | pair of hiking boots | 140 | ankle support; grippy lug sole; breathable lining
Outdoor > Hiking > Trekking Poles | pair of trekking poles | 60 | telescopic shafts; cork handles; carbide tips
Outdoor > Climbing > Harnesses | climbing harness | 75 | gear loops; adjustable leg straps; belay ring
Outdoor > Climbing > Climbing Ropes | climbing rope | 150 | dynamic core; dry treatment; middle mark
Outdoor > Climbing > Helmets | climbing helmet | 70 | headlamp clips; impact shell; dial adjustment
Outdoor > Fishing > Rods | fishing rod | 85 | sensitive tip; smooth guides; telescopic sections
Outdoor > Fishing > Reels | fishing reel | 90 | sealed bearings; drag system; spare spool
Outdoor > Fishing > Lures | set of fishing lures | 20 | treble hooks; rattling beads; swimming action
Kitchen > Cookware > Frying Pans | frying pan | 45 | non-stick coating; riveted handle; induction base
Kitchen > Cookware > Saucepans | saucepan | 50 | pouring lip; measuring marks; fitted lid
Kitchen > Cookware > Casseroles | casserole | 95 | self-basting lid; even slow cooking; wide side handles
Kitchen > Coffee > Espresso Machines | espresso machine | 260 | milk frother; pressure pump; drip tray
Kitchen > Coffee > Coffee Grinders | coffee grinder | 80 | conical burrs; grind settings; bean hopper
Kitchen > Coffee > Mugs | coffee mug | 15 | generous handle; double wall; keeps drinks hot
Kitchen > Baking > Cake Tins | cake tin | 18 | loose base; spring clip; crisp edges
Kitchen > Baking > Mixers | stand mixer | 220 | dough hook; whisk attachment; tilting head
Kitchen > Baking > Scales | kitchen scale | 25 | tare button; gram precision; easy-clean plate
Kitchen > Knives > Chef Knives | chef knife | 65 | keen blade; balanced bolster; full tang
Kitchen > Knives > Sharpeners | knife sharpener | 30 | ceramic wheels; fixed angle; coarse and fine slots
Kitchen > Knives > Cutting Boards | cutting board | 28 | juice groove; end grain; anti-slip feet
Beauty > Skincare > Face Creams | face cream | 32 | daily moisture; light texture; sun protection
Beauty > Skincare > Serums | face serum | 38 | hyaluronic drops; brightening care; pipette bottle
Beauty > Skincare > Cleansers | face cleanser | 18 | gentle foam; removes make-up; balanced pH
Beauty > Haircare > Shampoos | shampoo | 14 | rich lather; scalp care; sulphate-free formula
Beauty > Haircare > Hair Masks | hair mask | 22 | repairs split ends; deep conditioning; silky shine
Beauty > Haircare > Hair Dryers | hair dryer | 75 | ionic air flow; cool shot; diffuser nozzle
Beauty > Make-up > Lipsticks | lipstick | 19 | long-lasting pigment; satin finish; creamy glide
Beauty > Make-up > Mascaras | mascara | 17 | curved brush; volume for lashes; smudge-proof wear
Beauty > Make-up > Palettes | eyeshadow palette | 36 | shimmer and matte shades; blendable powder; mirror in the lid
Beauty > Fragrance > Perfumes | perfume | 78 | floral heart; musky base; glass atomiser
Beauty > Fragrance > Candles | scented candle | 26 | soy wax; cotton wick; forty hours of burning
Beauty > Fragrance > Diffusers | reed diffuser | 34 | essential oils; rattan reeds; gentle room scent
Toys > Building > Brick Sets | building brick set | 45 | interlocking pieces; picture instructions; mini figures
Toys > Building > Marble Runs | marble run | 38 | spiral tracks; glass marbles; tower pillars
Toys > Building > Train Sets | toy train set | 52 | railway curves; magnetic wagons; bridge and tunnel
Toys > Puzzles > Jigsaws | jigsaw puzzle | 20 | thousand pieces; panoramic picture; snug fit
Toys > Puzzles > Brain Teasers | brain teaser | 16 | tricky mechanism; logic challenge; several solutions
Toys > Puzzles > Board Games | board game | 34 | dice and cards; family strategy; two to six players
Toys > Dolls > Dolls | doll | 30 | combable hair; movable arms; change of clothes
Toys > Dolls > Doll Houses | doll house | 95 | tiny furniture; opening front; three floors
Toys > Dolls > Soft Animals | cuddly animal | 24 | huggable belly; embroidered eyes; washable fur
Toys > Learning > Science Kits | science kit | 40 | safe experiments; illustrated guide; test tubes
Toys > Learning > Telescopes | telescope for children | 70 | lunar filter; table tripod; star map
Toys > Learning > Globes | globe | 48 | illuminated countries; raised relief; talking quiz pen
Electronics > Audio > Headphones | pair of headphones | 130 | noise cancelling; cushioned ear cups; foldable band
Electronics > Audio > Speakers | bluetooth speaker | 85 | deep bass; splash-proof grille; stereo pairing
Electronics > Audio > Turntables | turntable | 190 | belt drive; balanced tonearm; built-in phono stage
Electronics > Computing > Keyboards | mechanical keyboard | 95 | tactile switches; backlit keys; detachable cable
Electronics > Computing > Mice | computer mouse | 45 | optical sensor; thumb buttons; silent clicks
Electronics > Computing > Monitors | monitor | 270 | wide colour range; height-adjustable stand; slim bezel
Electronics > Photo > Cameras | camera | 520 | interchangeable lenses; image stabiliser; tilting screen
Electronics > Photo > Tripods | camera tripod | 80 | ball head; quick-release plate; spirit level
Electronics > Photo > Camera Bags | camera bag | 65 | padded dividers; lens pockets; weather flap
Electronics > Smart Home > Smart Lamps | smart lamp | 40 | app control; warm to cold light; sunrise timer
Electronics > Smart Home > Thermostats | smart thermostat | 140 | learns schedules; saves energy; voice control
Electronics > Smart Home > Doorbells | video doorbell | 120 | motion alerts; night vision; two-way talk
Fashion > Shoes > Sneakers | pair of sneakers | 80 | cushioned insole; lace-up front; street look
Fashion > Shoes > Sandals | pair of sandals | 50 | open toes; cork footbed; buckle straps
Fashion > Shoes > Ankle Boots | pair of ankle boots | 120 | block heel; side zip; almond toe
Fashion > Tops > T-Shirts | t-shirt | 22 | crew neck; regular fit; pre-washed
Fashion > Tops > Sweaters | sweater | 65 | ribbed cuffs; cosy knit; drop shoulders
Fashion > Tops > Shirts | button-up shirt | 48 | cutaway collar; mother-of-pearl buttons; easy ironing
Fashion > Accessories > Handbags | handbag | 110 | inner pockets; magnetic closure; long strap
Fashion > Accessories > Scarves | scarf | 35 | fringed ends; wraps twice; soft drape
Fashion > Accessories > Belts | belt | 38 | pin buckle; stitched edge; five holes
Fashion > Jewellery > Earrings | pair of earrings | 45 | hypoallergenic posts; sparkling stones; dangling drops
Fashion > Jewellery > Necklaces | necklace | 60 | fine chain; lobster clasp; engraved pendant
Fashion > Jewellery > Watches | wristwatch | 160 | quartz movement; date window; scratch-proof dial
Garden > Plants > Planters | planter | 32 | drainage hole; frost-proof; matching saucer
Garden > Plants > Seeds | packet of seeds | 6 | high germination; sowing calendar; heirloom variety
Garden > Plants > Greenhouses | greenhouse | 240 | roof vent; shelving; sliding door
Garden > Tools > Pruners | pair of pruning shears | 34 | bypass blades; sap groove; safety catch
Garden > Tools > Spades | garden spade | 42 | tread edge; sharpened blade; ash shaft
Garden > Tools > Hoses | garden hose | 48 | kink-free; spray nozzle; tap connectors
Garden > Furniture > Loungers | sun lounger | 130 | reclining back; folding legs; quick-dry cover
Garden > Furniture > Parasols | parasol | 90 | crank handle; tilting canopy; sun shade
Garden > Furniture > Fire Pits | fire pit | 150 | spark guard; log grate; warm evenings
Garden > Wildlife > Bird Feeders | bird feeder | 24 | squirrel guard; seed tray; perches
Garden > Wildlife > Nest Boxes | nest box | 28 | entrance hole; removable roof; cleaning hatch
Garden > Wildlife > Insect Hotels | insect hotel | 30 | hollow stems; solitary bees; drilled logs
Sports > Running > Running Shoes | pair of running shoes | 115 | responsive midsole; heel counter; race day pace
Sports > Running > Running Jackets | running jacket | 85 | reflective strips; packable hood; wind stopping
Sports > Running > Heart Rate Monitors | heart rate monitor | 75 | chest strap; pace zones; training log
Sports > Cycling > Bike Helmets | bike helmet | 70 | air vents; rear light; chin strap
Sports > Cycling > Bike Lights | set of bike lights | 35 | usb charging; handlebar mount; blinking mode
Sports > Cycling > Saddles | bike saddle | 60 | pressure relief; gel padding; sturdy rails
Sports > Yoga > Yoga Mats | yoga mat | 38 | anti-slip surface; alignment lines; carry strap
Sports > Yoga > Yoga Blocks | pair of yoga blocks | 20 | rounded edges; stable support; deeper stretches
Sports > Yoga > Meditation Cushions | meditation cushion | 42 | buckwheat filling; upright posture; removable cover
Sports > Swimming > Goggles | pair of swimming goggles | 24 | anti-fog lenses; silicone seal; mirrored view
Sports > Swimming > Swimsuits | swimsuit | 46 | chlorine resistant; crossed back; racing cut
Sports > Swimming > Kickboards | kickboard | 22 | buoyant core; hand grips; technique training
"""


@dataclass(frozen=True)
class Leaf:
    """A category at the finest level.

    Parameters
    ----------
    path
        Names from the coarsest level to this one: department, category, leaf.
    noun
        What one item of it is called.
    price
        Typical price, in the shop's currency.
    features
        Phrases that items of it are described by.
    """

    path: tuple[str, str, str]
    noun: str
    price: float
    features: tuple[str, ...]


def _leaf(line: str) -> Leaf:
    path, noun, price, features = (part.strip() for part in line.split("|"))
    department, category, leaf = (name.strip() for name in path.split(">"))
    return Leaf(
        (department, category, leaf), noun, float(price), tuple(f.strip() for f in features.split(";"))
    )


LEAVES = tuple(_leaf(line) for line in _TAXONOMY.strip().splitlines())
